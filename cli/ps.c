/*
 * popf ps.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/text.h"

void ps_help(FILE *f)
{
    fputs("Usage: popf ps [-a] [--json]\n\n"
          "Lists the machines that run.\n\n"
          "  -a, --all   those that have ended, too (popf rm NAME forgets one)\n"
          "      --json  one JSON object per line\n",
          f);
}

/* "3 min", "2 h" */
static void put_duration(char *buf, size_t len, int64_t sec)
{
    if (sec < 120)
        snprintf(buf, len, "%lld s", (long long)sec);
    else if (sec < 7200)
        snprintf(buf, len, "%lld min", (long long)sec / 60);
    else if (sec < 172800)
        snprintf(buf, len, "%lld h", (long long)sec / 3600);
    else
        snprintf(buf, len, "%lld days", (long long)sec / 86400);
}

static void put_ports(struct text *t, json_object *machine)
{
    json_object *ports;
    if (!json_object_object_get_ex(machine, "ports", &ports))
        return;
    for (size_t i = 0; i < json_object_array_length(ports); i++) {
        json_object *p = json_object_array_get_idx(ports, i);
        const char *address = json_text(p, "address");
        text_putf(t, "%s", i ? "," : "");
        if (strcmp(address, "127.0.0.1"))
            text_putf(t, "%s:", address);
        text_putf(t, "%lld:%lld%s", (long long)json_number(p, "host"),
                  (long long)json_number(p, "guest"), json_number(p, "udp") ? "/udp" : "");
    }
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void print_running(json_object *m)
{
    char up[32];
    struct text ports = {0};
    put_duration(up, sizeof(up), json_number(m, "uptime"));
    put_ports(&ports, m);
    printf("%-20s %-8s %7lld  %-8s %4lld %6lldM %-7s %-20s %s\n", json_text(m, "name"),
           json_text(m, "state"), (long long)json_number(m, "pid"), up,
           (long long)json_number(m, "cpus"), (long long)json_number(m, "memory") >> 20,
           json_text(m, "engine"), ports.n ? ports.s : "-", base_name(json_text(m, "image")));
    text_free(&ports);
}

static void print_ended(json_object *m)
{
    char ago[32];
    bool known = json_number(m, "ended");
    put_duration(ago, sizeof(ago), (int64_t)time(NULL) - json_number(m, "ended"));
    printf("%-20s ended    %s%s: %s\n", json_text(m, "name"), known ? ago : "",
           known ? " ago" : "popf was killed",
           known ? json_text(m, "text") : json_text(m, "image"));
}

static void print_json(json_object *m)
{
    json_object_object_del(m, "ok");
    puts(
        json_object_to_json_string_ext(m, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

/* Nothing if nobody answers. */
static void list_running(const char *name, bool json, bool *header)
{
    json_object *m = client_status(name);
    if (!m)
        return;
    if (json) {
        print_json(m);
    } else {
        if (!*header)
            printf("%-20s %-8s %7s  %-8s %4s %7s %-7s %-20s %s\n", "NAME", "STATE", "PID", "UP",
                   "CPUS", "MEMORY", "ENGINE", "PORTS", "IMAGE");
        *header = true;
        print_running(m);
    }
    json_object_put(m);
}

static void list_ended(bool json)
{
    char *folder = machine_state(NULL, NULL);
    struct args names = machine_names(folder);
    for (size_t i = 0; i < names.n; i++) {
        char *path = machine_state(names.v[i], "machine.json");
        json_object *m = machine_owner(names.v[i]) ? NULL : json_object_from_file(path);
        if (m && json) {
            json_object_object_add(m, "state", json_object_new_string("ended"));
            print_json(m);
        } else if (m) {
            print_ended(m);
        }
        json_object_put(m);
        free(path);
    }
    args_free(&names);
    free(folder);
}

static void list(bool all, bool json)
{
    bool header = false;
    char *folder = machine_runtime(NULL, NULL);
    struct args names = machine_names(folder);
    for (size_t i = 0; i < names.n; i++) {
        list_running(names.v[i], json, &header);
        if (!machine_owner(names.v[i]))
            machine_sweep(names.v[i]);
    }
    args_free(&names);
    free(folder);
    if (all)
        list_ended(json);
}

int ps_main(int argc, char **argv)
{
    static const struct option options[] = {{"all", no_argument, NULL, 'a'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    bool all = false, json = false;
    int opt;
    opterr = 0;
    optind = 1;
    while ((opt = getopt_long(argc, argv, "ah", options, NULL)) != -1) {
        if (opt == 'h') {
            ps_help(stdout);
            return 0;
        }
        if (opt == '?')
            break;
        all |= opt == 'a';
        json |= opt == 'j';
    }
    if (opt == '?' || optind < argc) {
        fprintf(stderr, "popf ps: unexpected %s; try popf ps --help\n",
                argv[opt == '?' ? optind - 1 : optind]);
        return STATUS_USAGE;
    }
    list(all, json);
    return 0;
}
