/*
 * net_packet.h - the addresses and ports of a frame.
 */
#ifndef POPF_NET_PACKET_H
#define POPF_NET_PACKET_H

#include "base/base.h"

#define ETH_IPV4 0x0800
#define ETH_ARP  0x0806
#define ETH_IPV6 0x86dd

#define IP_ICMP   1
#define IP_TCP    6
#define IP_UDP    17
#define IP_ICMPV6 58

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct net_packet {
    u16 type; /* ETH_x */
    bool v6;
    u8 proto;         /* IP_x; 0 if what follows says nothing about it */
    u8 *src, *dst;    /* addresses: 4 or 16 bytes in the frame */
    u8 *l4;           /* TCP, UDP or ICMP header */
    unsigned l4_len;  /* bytes from there to the end of the packet */
    u16 sport, dport; /* TCP and UDP */
    u8 tcp_flags;
};

/*
 * Takes apart an Ethernet frame with ARP, IPv4 or IPv6 in it. False: it is nothing of the kind, it
 * is damaged, a fragment, or has IP options or extension headers.
 */
bool net_packet_parse(u8 *frame, size_t len, struct net_packet *p);

static inline u16 net_get16(const u8 *p)
{
    return (u16)(p[0] << 8 | p[1]);
}

static inline void net_put16(u8 *p, u16 v)
{
    p[0] = v >> 8;
    p[1] = (u8)v;
}

#endif
