/* Preloaded: memory that pagemig's own modules ask the host for is refused from the n-th time on, or that once.
 *
 * Allocations of the interpreter and of numpy pass: who asks is known by the address that the call returns to.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

static long countdown = -1;     /* allocations left until one fails; -1: none does */
static long refused;
static int every;               /* all later ones, too */
static __thread int asking;

void faults_arm(long n, int all)
{
    refused = 0;
    every = all;
    countdown = n;
}

long faults_disarm(void)
{
    countdown = -1;
    return refused;
}

static int is_ours(void *caller)
{
    Dl_info info;
    int ours;

    if (asking)
        return 0;
    asking = 1;
    ours = dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, "/pagemig/");
    asking = 0;
    return ours;
}

static int refuses(void *caller)
{
    if (countdown < 0 || !is_ours(caller))
        return 0;
    if (countdown > 0) {
        countdown--;
        return 0;
    }
    if (!every)
        countdown = -1;
    refused++;
    errno = ENOMEM;
    return 1;
}

#define NEXT(type, name, args) \
    static type (*next_##name) args; \
    if (!next_##name) \
        next_##name = (type (*) args) dlsym(RTLD_NEXT, #name)

void *malloc(size_t n)
{
    NEXT(void *, malloc, (size_t));
    return refuses(__builtin_return_address(0)) ? NULL : next_malloc(n);
}

/* dlsym asks for memory itself, before it can name the next calloc. */
void *calloc(size_t n, size_t size)
{
    static char first[4096];
    static size_t used;
    static void *(*next)(size_t, size_t);
    static int looking;

    if (!next) {
        if (looking) {
            void *p = first + used;
            used += (n * size + 15) & ~(size_t) 15;
            return used <= sizeof(first) ? p : NULL;
        }
        looking = 1;
        next = (void *(*)(size_t, size_t)) dlsym(RTLD_NEXT, "calloc");
        looking = 0;
    }
    return refuses(__builtin_return_address(0)) ? NULL : next(n, size);
}

void *realloc(void *p, size_t n)
{
    NEXT(void *, realloc, (void *, size_t));
    return refuses(__builtin_return_address(0)) ? NULL : next_realloc(p, n);
}

void *aligned_alloc(size_t alignment, size_t n)
{
    NEXT(void *, aligned_alloc, (size_t, size_t));
    return refuses(__builtin_return_address(0)) ? NULL : next_aligned_alloc(alignment, n);
}

void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    NEXT(void *, mmap, (void *, size_t, int, int, int, off_t));
    return refuses(__builtin_return_address(0)) ? MAP_FAILED : next_mmap(at, n, prot, flags, fd, offset);
}

/* What mmap is called where offsets have 64 bits. */
void *mmap64(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    NEXT(void *, mmap64, (void *, size_t, int, int, int, off_t));
    return refuses(__builtin_return_address(0)) ? MAP_FAILED : next_mmap64(at, n, prot, flags, fd, offset);
}
