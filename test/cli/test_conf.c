/*
 * Machine files: what options they become, and what is said about wrong ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <getopt.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/conf.h"

/* The options with "|" between, or the complaint. To be freed. */
static char *parse_in(const char *text, const char *dir)
{
    struct args a = {0};
    struct text t = {0};
    char why[256];
    text_put(&t, "", 0);
    if (conf_parse(&a, text, "m.toml", dir, why, sizeof(why)))
        text_putf(&t, "%s", why);
    else
        for (size_t i = 0; i < a.n; i++)
            text_putf(&t, "%s%s", i ? "|" : "", a.v[i]);
    args_free(&a);
    return t.s;
}

static void expect_in(const char *text, const char *dir, const char *options)
{
    char *got = parse_in(text, dir);
    assert_string_equal(got, options);
    free(got);
}

static void expect(const char *text, const char *options)
{
    expect_in(text, NULL, options);
}

static void values(void **state)
{
    expect("", "");
    expect("memory = \"1G\"\ncpus = 2\n", "--memory|1G|--cpus|2");
    expect("cpus=0x4", "--cpus|4");
    expect("max-insns = 1_000_000", "--max-insns|1000000");
    expect("snapshot = true\nstats = false\n", "--snapshot");
    expect("rng = false\nballoon = true", "--rng|off|--balloon|on");
    expect("append = 'a \\n \"b\"'", "--append|a \\n \"b\"");
    expect("append = \"a\\t\\u00e9\\\"\\\\\" # and a comment", "--append|a\t\xc3\xa9\"\\");
    expect("\"append\" = \"x # no comment\"\r\n\r\n", "--append|x # no comment");
    expect("image = \"d.qcow2\"", "d.qcow2");
    expect("\xef\xbb\xbf# mark\n\tname = 'n'", "--name|n");
}

static void arrays(void **state)
{
    expect("publish = \"1:2\"", "--publish|1:2");
    expect("publish = [\"1:2\", '3:4/udp']", "--publish|1:2|--publish|3:4/udp");
    expect("publish = [ # several lines\n  \"1:2\",\n\n  \"3:4\", # the last\n]\ncpus = 1",
           "--publish|1:2|--publish|3:4|--cpus|1");
    expect("publish = []", "");
}

static void tables(void **state)
{
    expect("[[disk]]\nfile = \"a,b.qcow2\"\noverlay = true\nserial = \"x,y\"\n[[disk]]\nfile='c'\n"
           "cache = false\nro = false",
           "--disk|a,,b.qcow2,overlay,serial=x,,y|--disk|c,cache=off");
    expect("cpus = 1\n[net]\nkind = \"user\"\nrestrict = true\nmac = \"52:54:00:00:00:01\"",
           "--cpus|1|--net|user,restrict,mac=52:54:00:00:00:01");
    expect("[[share]]\nhost = 'src'\nguest = '/src'\nro = true\n", "--share|src:/src:ro");
    expect("[[share]]\nhost = 'src'", "--share|src");
    expect("[[share]]\nhost = 'src'\nvirtiofs = true", "--share|src:virtiofs");
    expect("[[port]]\nname = 'a'\npath = 's'", "--port|a=s");
}

static void paths(void **state)
{
    setenv("HOME", "/home/jo", 1);
    expect_in("kernel = 'k'\ninitrd = '/i'\nappend = 'a'", "/d",
              "--kernel|/d/k|--initrd|/i|--append|a");
    expect_in("ssh-key = ['~/.ssh/k.pub', 'k']", "d",
              "--ssh-key|/home/jo/.ssh/k.pub|--ssh-key|d/k");
    expect_in("net = 'user'", "d", "--net|user");
    expect_in("net = 'socket:s'", "d", "--net|socket:d/s");
    expect_in("gdb = 1234", "d", "m.toml:1: gdb must be a string");
    expect_in("gdb = '1234'", "d", "--gdb|1234");
    expect_in("[[disk]]\nfile = 'f'", "/a,b", "--disk|/a,,b/f");
}

/* What the command line can say a file can. */
static void every_option(void **state)
{
    expect_in("code-cache = 'c'\nbt-direct = false\nbt-dump = '0x1000'\ngdb-jit = true", "/d",
              "--code-cache|/d/c|--bt-direct|off|--bt-dump|0x1000|--gdb-jit");
    for (const struct option *o = run_long_options(); o->name; o++) {
        char line[80];
        if (!strcmp(o->name, "help"))
            continue;
        snprintf(line, sizeof(line), "%s = %s", o->name, o->has_arg ? "'x'" : "true");
        char *got = parse_in(line, NULL);
        if (strstr(got, "unknown key"))
            fail_msg("%s", got);
        free(got);
    }
}

static void complaints(void **state)
{
    expect("\n\nmemroy = '1G'",
           "m.toml:3: unknown key \"memroy\"; the keys are the long options of popf run");
    expect("cpus = 1\ncpus = 2", "m.toml:2: \"cpus\" is set already, in line 1");
    expect("cpus", "m.toml:1: = is missing after \"cpus\"");
    expect("cpus = two", "m.toml:1: \"two\" is no value: a string in quotes, a number, true, false "
                         "or [...]");
    expect("cpus = 012", "m.toml:1: \"012\" is no value: a string in quotes, a number, true, false "
                         "or [...]");
    expect("name = 'a", "m.toml:1: the string has no end: ' is missing");
    expect("name = \"a\\q\"", "m.toml:1: unknown escape \\q in a string ('...' takes \\ as it is)");
    expect("name = 'a' 'b'", "m.toml:1: unexpected \"'b'\" after the value");
    expect("name = 'a'\nsnapshot = 'yes'", "m.toml:2: snapshot must be true or false");
    expect("publish = [\n'1:2'\n'3:4'\n]", "m.toml:3: a comma or ] is missing in an array");
    expect("publish = [1, true]", "m.toml:1: publish must be a string or an array of them");
    expect("[disk]\nfile = 'a'", "m.toml:1: there may be several: write [[disk]]");
    expect("[[disk]]\noverlay = true", "m.toml:1: file is missing in [[disk]]");
    expect("[[disk]]\nfile = 'a'\nfoo = 1",
           "m.toml:3: unknown key \"foo\" in disk; the keys are the long options of popf run");
    expect("[net]\nkind='user'\n[net]\nkind='none'",
           "m.toml:3: there is a [net] already, in line 1");
    expect("[x]\ny = 1",
           "m.toml:1: unknown table [x]: there are [[disk]], [net], [[share]], [[port]]");
    expect("[disk", "m.toml:1: ] is missing after the table's name");
    expect("a = {b = 1}",
           "m.toml:1: tables in one line ({...}) are not understood: write [name] or "
           "[[name]]");
    expect("name = \"\"\"a\"\"\"", "m.toml:1: strings of several lines are not understood");
}

/* Whatever bytes come: no crash, and an error has a line. */
static void noise(void **state)
{
    static const char chars[] = "[]=\"'\\#,\n ax1_-.{}ut";
    uint32_t x = 1;
    for (unsigned i = 0; i < 20000; i++) {
        char text[24];
        for (unsigned k = 0; k < sizeof(text) - 1; k++) {
            x = x * 1664525 + 1013904223;
            text[k] = chars[(x >> 16) % (sizeof(chars) - 1)];
        }
        text[sizeof(text) - 1] = 0;
        free(parse_in(text, NULL));
    }
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void on_command_line(void **state)
{
    char dir[] = "/tmp/popf-test-XXXXXX", expected[128], path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/web.toml", dir);
    write_file(path, "kernel = 'k'\n");

    struct args all = {0};
    char *argv[] = {"run", "-d", path, "-m", "1G", NULL};
    assert_int_equal(conf_expand(&all, 5, argv), 0);
    snprintf(expected, sizeof(expected), "%s/k", dir);
    const char *want[] = {"run", "--kernel", expected, "--name", "web", "-d", "-m", "1G"};
    assert_int_equal(all.n, 8);
    for (size_t i = 0; i < all.n; i++)
        assert_string_equal(all.v[i], want[i]);
    args_free(&all);

    char *value[] = {"run", "--pcap", path, "vmlinuz", NULL}; /* an option's value is none */
    assert_int_equal(conf_expand(&all, 4, value), 0);
    assert_int_equal(all.n, 4);
    args_free(&all);
    unlink(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values), cmocka_unit_test(arrays),          cmocka_unit_test(tables),
        cmocka_unit_test(paths),  cmocka_unit_test(every_option),    cmocka_unit_test(complaints),
        cmocka_unit_test(noise),  cmocka_unit_test(on_command_line),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
