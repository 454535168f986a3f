/*
 * memory_peer SOCKET REQUEST: sends one line to a unix socket and prints the line that comes back.
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (argc != 3 || strlen(argv[1]) >= sizeof(to.sun_path))
        return 2;
    strcpy(to.sun_path, argv[1]);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to))) {
        perror(argv[1]);
        return 1;
    }
    dprintf(fd, "%s\n", argv[2]);
    for (char c = 0; c != '\n' && read(fd, &c, 1) == 1;)
        putchar(c);
    return 0;
}
