/* What people write after --net, -p and --allow. */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "net/net.h"
#include "net/net_user.h"

/* A whole decimal number of [min, max]. */
static bool parse_number(const char *s, size_t n, unsigned min, unsigned max, unsigned *out)
{
    unsigned v = 0;
    if (!n || n > 9)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        v = v * 10 + (unsigned)(s[i] - '0');
    }
    *out = v;
    return v >= min && v <= max;
}

static bool parse_port(const char *s, size_t n, u16 *out)
{
    unsigned v;
    if (!parse_number(s, n, 1, 65535, &v))
        return false;
    *out = (u16)v;
    return true;
}

/* --- --net --- */

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_mac(const char *s, size_t n, u8 mac[6])
{
    if (n != 17)
        return false;
    for (unsigned i = 0; i < 6; i++) {
        const char *p = s + 3 * (size_t)i;
        int high = hex(p[0]), low = hex(p[1]);
        if (high < 0 || low < 0 || (i < 5 && p[2] != ':'))
            return false;
        mac[i] = (u8)(high * 16 + low);
    }
    static const u8 zero[6];
    return !(mac[0] & 1) && memcmp(mac, zero, 6) != 0;
}

static bool is_word(const char *s, size_t n, const char *word)
{
    return n == strlen(word) && !memcmp(s, word, n);
}

/* "NAME" behind "tap:" or "socket:". */
static int parse_name(struct net_config *c, const char *s, size_t n, size_t max, const char *what,
                      struct err *e)
{
    if (!n || n >= max)
        return err_set(e, "--net: %s has 1 to %zu characters: \"%.*s\"", what, max - 1, (int)n, s);
    memcpy(c->name, s, n);
    c->name[n] = 0;
    return 0;
}

static int parse_kind(struct net_config *c, const char *s, size_t n, struct err *e)
{
    static const char tap[] = "tap:", sock[] = "socket:";
    c->name[0] = 0;
    if (is_word(s, n, "none")) {
        c->kind = NET_NONE;
    } else if (is_word(s, n, "user")) {
        c->kind = NET_USER;
    } else if (n >= 4 && !memcmp(s, tap, 4)) {
        c->kind = NET_TAP;
        return parse_name(c, s + 4, n - 4, 16, "the name of a tap device", e);
    } else if (n >= 7 && !memcmp(s, sock, 7)) {
        c->kind = NET_SOCKET;
        return parse_name(c, s + 7, n - 7, NET_NAME_MAX - 8, "the path of a socket", e);
    } else {
        return err_set(e, "--net: \"%.*s\" is not user, none, tap:NAME or socket:PATH", (int)n, s);
    }
    return 0;
}

static int parse_option(struct net_config *c, const char *s, size_t n, struct err *e)
{
    if (is_word(s, n, "restrict")) {
        c->restricted = true;
        return 0;
    }
    if (n > 4 && !memcmp(s, "mac=", 4)) {
        c->has_mac = parse_mac(s + 4, n - 4, c->mac);
        if (c->has_mac)
            return 0;
        return err_set(e, "--net: \"%.*s\" is not the address of one card (like 52:50:46:00:00:01)",
                       (int)n - 4, s + 4);
    }
    if (n > 4 && !memcmp(s, "mtu=", 4)) {
        if (parse_number(s + 4, n - 4, NET_MTU_MIN, NET_MTU_MAX, &c->mtu))
            return 0;
        return err_set(e, "--net: mtu is a number from %u to %u, not \"%.*s\"", NET_MTU_MIN,
                       NET_MTU_MAX, (int)n - 4, s + 4);
    }
    return err_set(e, "--net: \"%.*s\" is not restrict, mac=ADDRESS or mtu=NUMBER", (int)n, s);
}

int net_config_parse(struct net_config *c, const char *spec, struct err *e)
{
    size_t n = strcspn(spec, ",");
    if (parse_kind(c, spec, n, e))
        return -1;
    while (spec[n]) {
        spec += n + 1;
        n = strcspn(spec, ",");
        if (parse_option(c, spec, n, e))
            return -1;
    }
    return 0;
}

/* --- -p --- */

static bool parse_ipv4(const char *s, size_t n, void *out)
{
    char text[INET_ADDRSTRLEN];
    if (n >= sizeof(text))
        return false;
    memcpy(text, s, n);
    text[n] = 0;
    return inet_pton(AF_INET, text, out) == 1;
}

static bool parse_forward(const char *s, struct net_forward *f)
{
    *f = (struct net_forward){.addr = htonl(INADDR_LOOPBACK)};
    size_t n = strlen(s);
    const char *slash = memchr(s, '/', n);
    if (slash) {
        f->udp = !strcmp(slash, "/udp");
        if (!f->udp && strcmp(slash, "/tcp") != 0)
            return false;
        n = (size_t)(slash - s);
    }
    const char *guest = memrchr(s, ':', n);
    if (!guest || !parse_port(guest + 1, n - (size_t)(guest + 1 - s), &f->guest))
        return false;
    n = (size_t)(guest - s);
    const char *host = memrchr(s, ':', n);
    if (host && !parse_ipv4(s, (size_t)(host - s), &f->addr))
        return false;
    const char *port = host ? host + 1 : s;
    return parse_port(port, n - (size_t)(port - s), &f->host);
}

int net_config_forward(struct net_config *c, const char *spec, struct err *e)
{
    struct net_forward f;
    if (!parse_forward(spec, &f))
        return err_set(e,
                       "-p: \"%s\" is not [ADDRESS:]HOST:GUEST[/udp], with ports from 1 to 65535 "
                       "and an IPv4 address",
                       spec);
    for (unsigned i = 0; i < c->nforward; i++) {
        const struct net_forward *o = &c->forward[i];
        if (o->host == f.host && o->udp == f.udp && o->addr == f.addr)
            return err_set(e, "-p: port %u of the host is forwarded twice", f.host);
    }
    if (c->nforward == NET_FORWARDS_MAX)
        return err_set(e, "-p: at most %d ports can be forwarded", NET_FORWARDS_MAX);
    c->forward[c->nforward++] = f;
    return 0;
}

/* --- --allow --- */

static bool parse_host_name(const char *s, size_t n, char *out)
{
    if (n && s[n - 1] == '.')
        n--;
    if (!n || n >= NET_HOST_MAX)
        return false;
    size_t label = 0;
    for (size_t i = 0; i < n; i++) {
        label = s[i] == '.' ? 0 : label + 1;
        if (!(isalnum((unsigned char)s[i]) || s[i] == '-' || s[i] == '_' || s[i] == '.') ||
            label > 63 || (s[i] == '.' && (!i || s[i - 1] == '.')))
            return false;
        out[i] = (char)tolower((unsigned char)s[i]);
    }
    out[n] = 0;
    return true;
}

static bool parse_ipv6(const char *s, size_t n, void *out)
{
    char text[INET6_ADDRSTRLEN];
    if (n < 3 || s[0] != '[' || s[n - 1] != ']' || n - 2 >= sizeof(text))
        return false;
    memcpy(text, s + 1, n - 2);
    text[n - 2] = 0;
    return inet_pton(AF_INET6, text, out) == 1;
}

/* A name of digits and dots only was meant to be an address. */
static bool looks_numeric(const char *s, size_t n)
{
    return n && strspn(s, "0123456789.") >= n;
}

static bool parse_allowed_host(const char *s, size_t n, struct net_allow *a)
{
    static const u8 gateway[4] = NET_USER_GATEWAY;
    if (s[0] == '[') {
        a->v6 = true;
        return parse_ipv6(s, n, a->addr);
    }
    if (looks_numeric(s, n)) {
        if (!parse_ipv4(s, n, a->addr))
            return false;
        if (a->addr[0] == 127)
            memcpy(a->addr, gateway, 4);
        return true;
    }
    if (is_word(s, n, "localhost")) {
        memcpy(a->addr, gateway, 4);
        return true;
    }
    return parse_host_name(s, n, a->host);
}

int net_config_allow(struct net_config *c, const char *spec, struct err *e)
{
    struct net_allow a = {0};
    const char *colon = strrchr(spec, ':');
    if (!colon || !parse_port(colon + 1, strlen(colon + 1), &a.port) ||
        !parse_allowed_host(spec, (size_t)(colon - spec), &a))
        return err_set(e,
                       "--allow: \"%s\" is not HOST:PORT, with a name, an IPv4 address or an IPv6 "
                       "address in brackets",
                       spec);
    if (c->nallow == NET_ALLOW_MAX)
        return err_set(e, "--allow: at most %d can be given", NET_ALLOW_MAX);
    c->allow[c->nallow++] = a;
    return 0;
}
