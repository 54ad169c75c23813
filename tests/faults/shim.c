/* A disk that fails when told to: loaded in front of libc by LD_PRELOAD.
 *
 * FAULTS_TRIGGER names a file. While it is there, its first letter says what goes wrong:
 *   s  fsync and fdatasync answer EIO        w  writes answer EIO
 *   f  writes answer ENOSPC                  t  half of a write reaches the disk, then EIO
 *   d  fsync and fdatasync take 1.5 s         h  they hang while the letter stands
 * Sockets, pipes and the three standard streams are left alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char told(void) {
    const char *path = getenv("FAULTS_TRIGGER");
    int before = errno;
    char letter = 0;
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        if (read(file, &letter, 1) != 1)
            letter = 0;
        close(file);
    }
    errno = before;
    return letter;
}

static int on_disk(int file) {
    struct stat about;
    return file > 2 && fstat(file, &about) == 0 && S_ISREG(about.st_mode);
}

static int sync_with(const char *name, int file) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    char letter = told();
    if (letter == 's') {
        errno = EIO;
        return -1;
    }
    if (letter == 'd')
        usleep(1500000);
    while (letter == 'h') {
        usleep(10000);
        letter = told();
    }
    return real(file);
}

int fsync(int file) { return sync_with("fsync", file); }
int fdatasync(int file) { return sync_with("fdatasync", file); }

/* What a write comes to: the bytes to really write, or -1 for all of them; the error afterwards. */
static ssize_t part(int file, size_t length, int *error) {
    char letter = told();
    *error = 0;
    if ((letter != 'w' && letter != 'f' && letter != 't') || !on_disk(file))
        return -1;
    *error = letter == 'f' ? ENOSPC : EIO;
    return letter == 't' ? (ssize_t)(length / 2) : 0;
}

static ssize_t at_with(const char *name, int file, const void *bytes, size_t length, off_t offset) {
    ssize_t (*real)(int, const void *, size_t, off_t) =
        (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, name);
    int error;
    ssize_t most = part(file, length, &error);
    if (most < 0)
        return real(file, bytes, length, offset);
    if (most > 0)
        (void)!real(file, bytes, (size_t)most, offset);
    errno = error;
    return -1;
}

ssize_t pwrite(int file, const void *bytes, size_t length, off_t offset) {
    return at_with("pwrite", file, bytes, length, offset);
}
ssize_t pwrite64(int file, const void *bytes, size_t length, off_t offset) {
    return at_with("pwrite64", file, bytes, length, offset);
}

ssize_t write(int file, const void *bytes, size_t length) {
    ssize_t (*real)(int, const void *, size_t) = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    int error;
    ssize_t most = part(file, length, &error);
    if (most < 0)
        return real(file, bytes, length);
    if (most > 0)
        (void)!real(file, bytes, (size_t)most);
    errno = error;
    return -1;
}
