/*
 * net_pcap.h - recording frames in a file that tcpdump and Wireshark read.
 *
 * Source: draft-ietf-opsawg-pcap. Link type 1 (Ethernet), nanosecond time stamps, host byte order.
 */
#ifndef POPF_NET_PCAP_H
#define POPF_NET_PCAP_H

#include "net/net.h"

/* Creates the file, or empties it. */
struct net_pcap *net_pcap_open(const char *path, const struct log *log, struct err *e);

/*
 * Records a frame, its checksum completed if that is still to be done; the file is complete up to
 * and with it when this returns. A file that cannot be written to ends the recording.
 */
void net_pcap_write(struct net_pcap *p, const u8 *frame, size_t len, const struct net_offload *o);

void net_pcap_close(struct net_pcap *p);

#endif
