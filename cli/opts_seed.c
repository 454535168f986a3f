/*
 * Options of `popf run` for cloud-init in the guest.
 */
#include "cli/cli.h"

static int add_key(struct run_options *o, const char *file)
{
    if (o->seed.nkeys == SEED_KEYS_MAX)
        return opts_complain("--ssh-key", file, "is one too many");
    o->ssh_key[o->seed.nkeys++] = file;
    o->seed.keys = o->ssh_key;
    return 0;
}

int opts_seed(struct run_options *o, int opt, const char *arg)
{
    switch (opt) {
    case OPT_SEED:
        o->seed.from = arg;
        return 0;
    case OPT_SEED_USER:
        o->seed.user = arg;
        return 0;
    case OPT_SEED_KEY:
        return add_key(o, arg);
    case OPT_SEED_PASSWORD:
        o->seed.password = arg;
        return 0;
    default:
        o->seed.hostname = arg;
        return 0;
    }
}

int opts_seed_check(const struct run_options *o)
{
    const struct seed *s = &o->seed;
    if (s->from && (s->user || s->nkeys || s->password))
        return opts_complain("--cloud-init", s->from,
                             "says all itself; --user, --ssh-key and --password do not go with it");
    if (!s->user && s->nkeys)
        return opts_complain("--ssh-key", s->keys[0], "whose? give --user NAME");
    if (!s->user && s->password)
        return opts_complain("--password", "...", "whose? give --user NAME");
    if (s->user && !s->nkeys && !s->password)
        return opts_complain("--user", s->user,
                             "needs --ssh-key FILE or --password TEXT to log in with");
    if (s->hostname && !s->user && !s->from)
        return opts_complain("--hostname", s->hostname,
                             "is set by cloud-init; it needs --user or --cloud-init");
    return 0;
}
