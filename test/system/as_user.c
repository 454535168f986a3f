/* as_user UID PROGRAM [ARGUMENT...]: runs it as that user and group, in a guest that has no su. */
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    unsigned id = argc > 2 ? strtoul(argv[1], NULL, 10) : 0;
    if (!id) {
        fprintf(stderr, "usage: as_user UID PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    if (!setgroups(0, NULL) && !setgid(id) && !setuid(id))
        execvp(argv[2], argv + 2);
    fprintf(stderr, "as_user: %s: %s\n", argv[2], strerror(errno));
    return 1;
}
