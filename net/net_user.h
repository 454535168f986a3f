/*
 * net_user.h - the addresses of user-mode networking, as the guest sees them.
 *
 *     10.0.2.0/24, fec0::/64     the network
 *     10.0.2.2,    fec0::2       the gateway; connections to it reach the host's own loopback
 *     10.0.2.3,    fec0::3       a name server: the host's
 *     10.0.2.15 ...              the guest's, by DHCP; IPv6 by router advertisements
 *
 * libslirp ends every connection of the guest and makes one of the host in its place, so the link's
 * MTU is nobody else's business, and libslirp can do 65520 (mtu=N). It does not pay: guests send
 * segments of 64 KiB whatever the MTU (HOST_TSO4) and gather what they receive (GRO), while
 * libslirp's window of 64 KiB would hold a single packet, with nothing on its way meanwhile.
 */
#ifndef POPF_NET_USER_H
#define POPF_NET_USER_H

#define NET_USER_NETWORK                                                                           \
    {                                                                                              \
        10, 0, 2, 0                                                                                \
    }
#define NET_USER_NETMASK                                                                           \
    {                                                                                              \
        255, 255, 255, 0                                                                           \
    }
#define NET_USER_GATEWAY                                                                           \
    {                                                                                              \
        10, 0, 2, 2                                                                                \
    }
#define NET_USER_DNS                                                                               \
    {                                                                                              \
        10, 0, 2, 3                                                                                \
    }
#define NET_USER_GUEST                                                                             \
    {                                                                                              \
        10, 0, 2, 15                                                                               \
    }

#define NET_USER_PREFIX6                                                                           \
    {                                                                                              \
        0xfe, 0xc0                                                                                 \
    }
#define NET_USER_PREFIX6_LEN 64
#define NET_USER_GATEWAY6                                                                          \
    {                                                                                              \
        0xfe, 0xc0, [15] = 2                                                                       \
    }
#define NET_USER_DNS6                                                                              \
    {                                                                                              \
        0xfe, 0xc0, [15] = 3                                                                       \
    }
#define NET_USER_GATEWAY6_LINK                                                                     \
    {                                                                                              \
        0xfe, 0x80, [15] = 2                                                                       \
    }

#endif
