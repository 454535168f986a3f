/*
 * Talking to a running machine.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/text.h"

#define REPLY_MS  5000
#define LINE_MAX_ 65536u

static int connect_to(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(a.sun_path))
        return -1;
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && !connect(fd, (struct sockaddr *)&a, sizeof(a)))
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static int connect_control(const char *name)
{
    char *path = machine_runtime(name, "control");
    int fd = connect_to(path);
    free(path);
    return fd;
}

int client_open(const char *cmd, const char *name)
{
    int fd = machine_name_ok(name) ? connect_control(name) : -1;
    if (fd >= 0)
        return fd;
    if (machine_name_ok(name) && machine_owner(name))
        fprintf(stderr, "popf %s: the machine %s does not answer (process %d)\n", cmd, name,
                (int)machine_owner(name));
    else
        fprintf(stderr, "popf %s: no machine %s is running; popf ps lists those that are\n", cmd,
                name);
    return -1;
}

static int send_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t put = send(fd, p, n, MSG_NOSIGNAL);
        if (put < 0 && errno != EINTR)
            return -1;
        p += put > 0 ? put : 0;
        n -= put > 0 ? (size_t)put : 0;
    }
    return 0;
}

/* Byte by byte: what follows the line belongs to the caller. */
static int read_line(int fd, struct text *line, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char c;
    while (line->n < LINE_MAX_) {
        int ready = poll(&p, 1, timeout_ms);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0 || recv(fd, &c, 1, 0) != 1)
            return -1;
        if (c == '\n')
            return 0;
        text_put(line, &c, 1);
    }
    return -1;
}

json_object *client_request(const char *what)
{
    json_object *o = json_object_new_object();
    json_object_object_add(o, "cmd", json_object_new_string(what));
    return o;
}

json_object *client_ask(int fd, json_object *request, int timeout_ms)
{
    struct text line = {0};
    json_object *reply = NULL;
    const char *text = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN);
    if (!send_all(fd, text, strlen(text)) && !send_all(fd, "\n", 1) &&
        !read_line(fd, &line, timeout_ms) && line.n)
        reply = json_tokener_parse(line.s);
    text_free(&line);
    json_object_put(request);
    return reply;
}

const char *json_text(json_object *o, const char *key)
{
    json_object *val;
    if (o && json_object_object_get_ex(o, key, &val) && json_object_is_type(val, json_type_string))
        return json_object_get_string(val);
    return "";
}

int64_t json_number(json_object *o, const char *key)
{
    json_object *val;
    return o && json_object_object_get_ex(o, key, &val) ? json_object_get_int64(val) : 0;
}

json_object *client_status(const char *name)
{
    int fd = connect_control(name);
    json_object *s = fd >= 0 ? client_ask(fd, client_request("status"), REPLY_MS) : NULL;
    if (fd >= 0)
        close(fd);
    return s;
}

int client_command(const char *cmd, const char *name, const char *what)
{
    int fd = client_open(cmd, name);
    if (fd < 0)
        return STATUS_ERROR;
    json_object *reply = client_ask(fd, client_request(what), REPLY_MS);
    int status = json_number(reply, "ok") ? 0 : STATUS_ERROR;
    if (!reply)
        fprintf(stderr, "popf %s: the machine %s does not answer\n", cmd, name);
    else if (status)
        fprintf(stderr, "popf %s: %s\n", cmd, json_text(reply, "error"));
    json_object_put(reply);
    close(fd);
    return status;
}

/* As Firecracker has it: "CONNECT port", "OK number", then the guest. */
static int connect_vsock(const char *path, unsigned port)
{
    struct text line = {0};
    int fd = connect_to(path);
    if (fd < 0)
        return -1;
    char *hello = xasprintf("CONNECT %u\n", port);
    bool ok = !send_all(fd, hello, strlen(hello)) && !read_line(fd, &line, REPLY_MS) && line.n &&
              text_starts(line.s, "OK ");
    free(hello);
    text_free(&line);
    if (ok)
        return fd;
    close(fd);
    return -2;
}

int client_vsock(const char *name, unsigned port)
{
    char *own = machine_runtime(name, "vsock");
    int fd = connect_vsock(own, port);
    free(own);
    if (fd != -1)
        return fd;
    json_object *s = client_status(name); /* one that the user has named */
    if (json_text(s, "vsock")[0])
        fd = connect_vsock(json_text(s, "vsock"), port);
    json_object_put(s);
    return fd;
}
