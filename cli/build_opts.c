#include <ctype.h>
#include <getopt.h>
#include <string.h>
#include <unistd.h>

#include "cli/build.h"
#include "cli/cli.h"

#define SIZE_MIN  (512ull << 20)
#define SIZE_MAX_ (16ull << 40)

enum {
    OPT_SUITE = 256,
    OPT_ARCH,
    OPT_INCLUDE,
    OPT_SIZE,
    OPT_MIRROR,
    OPT_HOSTNAME,
    OPT_USER,
    OPT_SSH_KEY,
    OPT_PASSWORD,
    OPT_ROOT_PASSWORD,
    OPT_NO_CLOUD_INIT,
    OPT_KERNEL,
    OPT_PARTITIONED,
    OPT_MODE,
};

static const struct option options[] = {
    {"output", required_argument, NULL, 'o'},
    {"suite", required_argument, NULL, OPT_SUITE},
    {"arch", required_argument, NULL, OPT_ARCH},
    {"include", required_argument, NULL, OPT_INCLUDE},
    {"size", required_argument, NULL, OPT_SIZE},
    {"mirror", required_argument, NULL, OPT_MIRROR},
    {"hostname", required_argument, NULL, OPT_HOSTNAME},
    {"user", required_argument, NULL, OPT_USER},
    {"ssh-key", required_argument, NULL, OPT_SSH_KEY},
    {"password", required_argument, NULL, OPT_PASSWORD},
    {"root-password", required_argument, NULL, OPT_ROOT_PASSWORD},
    {"no-cloud-init", no_argument, NULL, OPT_NO_CLOUD_INIT},
    {"kernel", required_argument, NULL, OPT_KERNEL},
    {"append", required_argument, NULL, 'a'},
    {"partitioned", no_argument, NULL, OPT_PARTITIONED},
    {"mode", required_argument, NULL, OPT_MODE},
    {"force", no_argument, NULL, 'f'},
    {"verbose", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

void build_help(FILE *f)
{
    fputs("Usage: popf image build debian [OPTION...]\n\n"
          "Makes a disk with Debian on it, as an ordinary user: kernel, systemd, ssh server,\n"
          "cloud-init, the agent of `popf exec`. Start it with `popf run FILE`.\n\n"
          "  -o, --output FILE       qcow2, or raw if it ends in .raw or .img\n"
          "                          (default debian-SUITE-ARCH.qcow2)\n"
          "      --suite NAME        Debian's release (default bookworm)\n"
          "      --arch NAME         amd64 (default) or i386\n"
          "      --include PKG,...   more packages; may be repeated\n"
          "      --size SIZE         of the disk (default 4G); it takes only the room it needs\n"
          "      --mirror URL        where packages come from, or a whole line \"deb URL SUITE "
          "main\";\n"
          "                          may be repeated (default: the sources of this machine's apt)\n"
          "      --hostname NAME     (default debian)\n"
          "      --user NAME         a user who may log in and use sudo\n"
          "      --ssh-key FILE      a public key that may log in as that user, else as root; may\n"
          "                          be repeated\n"
          "      --password TEXT     that user's\n"
          "      --root-password T   root's; without it the console asks root for none (and ssh\n"
          "                          lets root in by key only)\n"
          "      --no-cloud-init     leave cloud-init (and Python) out\n"
          "      --kernel PKG        (default linux-image-amd64 or linux-image-686;\n"
          "                          linux-image-cloud-amd64 is smaller, without shared folders)\n"
          "  -a, --append STRING     kernel command line (default \"ro console=ttyS0 quiet\")\n"
          "      --partitioned       a GPT and one partition, instead of the bare file system\n"
          "      --mode NAME         root, unshare or fakechroot, as in mmdebstrap(1)\n"
          "  -f, --force             overwrite FILE\n"
          "  -v, --verbose           show everything that is said\n\n"
          "Needs mmdebstrap and e2fsprogs, and either user namespaces (uidmap) or fakechroot.\n",
          f);
}

static int complain(const char *opt, const char *text, const char *should)
{
    fprintf(stderr, "popf image build: %s %s: %s; try popf image build --help\n", opt, text,
            should);
    return -1;
}

/* Words that go into scripts and file names: nothing in them that a shell would see. */
static bool is_word(const char *text, const char *also)
{
    if (!isalnum((unsigned char)text[0]))
        return false;
    for (; *text; text++)
        if (!isalnum((unsigned char)*text) && !strchr(also, *text))
            return false;
    return true;
}

static int set_word(const char *opt, const char *arg, const char *also, const char **val)
{
    if (!is_word(arg, also))
        return complain(opt, arg, "is no such name");
    *val = arg;
    return 0;
}

static int add_include(struct build_options *o, const char *arg)
{
    if (!is_word(arg, "-+._:,=~/"))
        return complain("--include", arg, "must be package names, with commas between");
    args_add(&o->include, arg);
    return 0;
}

static int set_size(struct build_options *o, const char *arg)
{
    if (opts_size(arg, &o->size) || o->size < SIZE_MIN || o->size > SIZE_MAX_)
        return complain("--size", arg, "must be a size from 512M to 16T");
    return 0;
}

static int add_key(struct build_options *o, const char *arg)
{
    if (access(arg, R_OK))
        return complain("--ssh-key", arg, "cannot be read");
    args_add(&o->keys, arg);
    return 0;
}

static int set_user(struct build_options *o, const char *arg)
{
    if (islower((unsigned char)arg[0]) && strlen(arg) <= 32 && is_word(arg, "-_"))
        return set_word("--user", arg, "-_", &o->user);
    return complain("--user", arg, "must be small letters, digits, - and _, at most 32");
}

static int set_arch(struct build_options *o, const char *arg)
{
    o->arch = arg;
    if (!strcmp(arg, "amd64") || !strcmp(arg, "i386"))
        return 0;
    return complain("--arch", arg, "must be amd64 or i386");
}

static int set_mode(struct build_options *o, const char *arg)
{
    o->mode = arg;
    if (!strcmp(arg, "root") || !strcmp(arg, "unshare") || !strcmp(arg, "fakechroot"))
        return 0;
    return complain("--mode", arg, "must be root, unshare or fakechroot");
}

static int apply(struct build_options *o, int opt, const char *arg)
{
    switch (opt) {
    case 'o':
        o->out = arg;
        return 0;
    case OPT_SUITE:
        return set_word("--suite", arg, "-._", &o->suite);
    case OPT_ARCH:
        return set_arch(o, arg);
    case OPT_INCLUDE:
        return add_include(o, arg);
    case OPT_SIZE:
        return set_size(o, arg);
    case OPT_MIRROR:
        args_add(&o->mirrors, arg);
        return 0;
    case OPT_HOSTNAME:
        return set_word("--hostname", arg, "-.", &o->hostname);
    case OPT_USER:
        return set_user(o, arg);
    case OPT_SSH_KEY:
        return add_key(o, arg);
    case OPT_PASSWORD:
        o->password = arg;
        return 0;
    case OPT_ROOT_PASSWORD:
        o->root_password = arg;
        return 0;
    case OPT_KERNEL:
        return set_word("--kernel", arg, "-+._:", &o->kernel);
    case OPT_MODE:
        return set_mode(o, arg);
    case 'a':
        o->kernel_args = arg;
        return 0;
    case OPT_NO_CLOUD_INIT:
        o->cloud_init = false;
        return 0;
    case OPT_PARTITIONED:
        o->partitioned = true;
        return 0;
    case 'f':
        o->force = true;
        return 0;
    case 'v':
        o->verbose = true;
        return 0;
    default:
        o->help = true;
        return 0;
    }
}

static int check(const struct build_options *o, int argc, char **argv)
{
    if (optind >= argc || strcmp(argv[optind], "debian")) {
        fprintf(stderr, "popf image build: %s; try popf image build debian\n",
                optind < argc ? "only debian can be built" : "what is to be built?");
        return -1;
    }
    if (optind + 1 < argc)
        return complain("argument", argv[optind + 1], "is one too many");
    if (o->password && !o->user)
        return complain("--password", "...", "needs --user NAME; root's is --root-password");
    if (o->user && !o->password && !o->keys.n)
        return complain("--user", o->user,
                        "needs --ssh-key FILE or --password TEXT to log in with");
    if (strpbrk(o->kernel_args, "\"\\$`\n"))
        return complain("--append", o->kernel_args, "may hold none of \" \\ $ `");
    return 0;
}

int build_parse(struct build_options *o, int argc, char **argv)
{
    *o = (struct build_options){.suite = "bookworm",
                                .arch = "amd64",
                                .hostname = "debian",
                                .kernel_args = "ro console=ttyS0 quiet",
                                .size = 4ull << 30,
                                .cloud_init = true};
    opterr = 0;
    optind = 1;
    int opt;
    while ((opt = getopt_long(argc, argv, ":o:a:fvh", options, NULL)) != -1) {
        if (opt == ':' || opt == '?') {
            const char *what = opt == ':' ? "no value given for" : "unknown option";
            fprintf(stderr, "popf image build: %s %s; try popf image build --help\n", what,
                    argv[optind - 1]);
            return -1;
        }
        if (apply(o, opt, optarg))
            return -1;
        if (o->help)
            return 0;
    }
    return check(o, argc, argv);
}

void build_free(struct build_options *o)
{
    args_free(&o->include);
    args_free(&o->mirrors);
    args_free(&o->keys);
}
