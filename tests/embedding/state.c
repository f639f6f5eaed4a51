/* A host in C that saves its machine half-way through a migration, and goes on with what it loads. */
#include "pagemig/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES = 40, STOPS = 64, PAGE = 4096 };

#define MUST(condition) do { if (!(condition)) return -__LINE__; } while (0)

/* ---- a buffer and a file to write to and to read from ---- */

typedef struct buffer {
    char *data;
    uint64_t n, at, room;
    uint64_t limit;             /* write fails beyond it; 0: never */
} buffer;

static int64_t put(void *priv, const void *p, uint64_t n)
{
    buffer *b = priv;

    if (b->limit && b->n + n > b->limit)
        return -1;
    if (b->n + n > b->room) {
        char *data = realloc(b->data, b->room = 2 * (b->n + n));

        if (!data)
            return -1;
        b->data = data;
    }
    memcpy(b->data + b->n, p, n);
    b->n += n;
    return (int64_t) n;
}

static int64_t get(void *priv, void *p, uint64_t n)
{
    buffer *b = priv;

    if (n > b->n - b->at)
        n = b->n - b->at;
    memcpy(p, b->data + b->at, n);
    b->at += n;
    return (int64_t) n;
}

static int64_t fails(void *priv, void *p, uint64_t n)
{
    (void) priv, (void) p, (void) n;
    return -1;
}

static int64_t put_file(void *priv, const void *p, uint64_t n)
{
    return (int64_t) fwrite(p, 1, n, priv);
}

static int64_t get_file(void *priv, void *p, uint64_t n)
{
    return (int64_t) fread(p, 1, n, priv);
}

/* ---- what a machine does from the save on ---- */

typedef struct seen {
    int64_t rc;
    int32_t status[PAGES];
    uint32_t stops, at[STOPS], n[STOPS];
    int kind[PAGES];
    pmg_outcome outcome[PAGES];
    uint64_t counters[64];
} seen;

static int rest(const pmg_api *api, pmg_machine *m, pmg_task task, uint64_t base, seen *s)
{
    pmg_mig_event e;
    pmg_mig move;
    pmg_ctx *c;
    char text[200];
    int i, at;

    memset(s, 0, sizeof(*s));
    memset(&e, 0, sizeof(e));
    e.size = sizeof(e);
    MUST(api->check(m, 1, text, sizeof(text)) == 0);
    MUST(api->migrations(m, &move, 1) == 1);
    MUST(api->ctx_open(m, task, 0, 1, &c) == 0);
    s->kind[0] = api->access(c, base, PMG_READ, &s->outcome[0]);
    MUST(s->kind[0] == PMG_K_WAIT);         /* it is behind a migration entry */
    do {
        at = api->mig_step(c, move, &e);
        MUST(at > 0 && s->stops < STOPS);
        s->at[s->stops] = (uint32_t) at;
        s->n[s->stops++] = e.n;
    } while (at != PMG_M_DONE);
    s->rc = api->mig_end(c, move, 0, s->status, PAGES, NULL);
    for (i = 0; i < PAGES; i++) {
        s->kind[i] = api->access(c, base + (uint64_t) i * PAGE, PMG_WRITE, &s->outcome[i]);
        MUST(s->kind[i] == PMG_K_HIT && s->outcome[i].node == 1 && s->status[i] == 1);
    }
    MUST(api->exit(c) == 0);
    api->ctx_close(c);
    MUST(api->check(m, 1, text, sizeof(text)) == 0);
    api->counters(m, s->counters, 64);
    return 0;
}

static int half_way(const pmg_api *api, const char *kernel, pmg_machine **m, pmg_task *task, uint64_t *base, pmg_ctx **c)
{
    pmg_node_spec nodes[2] = {{256, 0, 1, 1}, {256, 0, 1, 1}};
    uint64_t pages[PAGES];
    int32_t to[PAGES], status[PAGES];
    pmg_user a, b, d;
    pmg_mig_event e;
    pmg_outcome o;
    pmg_spec spec;
    pmg_mig move;
    int64_t rc;
    int i;

    memset(&spec, 0, sizeof(spec));
    memset(&e, 0, sizeof(e));
    e.size = sizeof(e);
    spec.size = sizeof(spec);
    spec.nr_nodes = 2;
    spec.page_bytes = 8;
    spec.nodes = nodes;
    spec.kernel = kernel;
    MUST(api->machine_new(&spec, m) == 0);
    MUST(api->ctx_open(*m, 0, 0, 1, c) == 0);
    MUST((rc = api->spawn(*c, 0, 1000)) > 0);
    *task = (pmg_task) rc;
    MUST(api->ctx_bind(*c, *task, 0) == 0);
    MUST((rc = api->mmap(*c, 0, PAGES * PAGE, 3, 0x22, 0, 0)) > 0);
    *base = (uint64_t) rc;
    for (i = 0; i < PAGES; i++) {
        pages[i] = *base + (uint64_t) i * PAGE;
        to[i] = 1;
        MUST(api->access(*c, pages[i], PMG_WRITE, &o) == PMG_K_MINOR && o.node == 0);
    }
    a.p = pages;
    a.bytes = sizeof(pages);
    b.p = to;
    b.bytes = sizeof(to);
    d.p = status;
    d.bytes = sizeof(status);
    MUST(api->mig_move_pages(*c, 0, PAGES, &a, &b, &d, 2, &move) == 0);
    MUST(api->mig_step(*c, move, &e) == PMG_M_UNMAPPED && e.n > 0);
    return 0;
}

/* Save a machine of a kernel to a file and to a buffer, and copy it: 0, or minus the line that failed. */
int save_and_go_on(const pmg_api *api, const char *kernel, const char *path)
{
    pmg_machine *m, *made;
    pmg_task task;
    pmg_ctx *c;
    uint64_t base, stops;
    static seen own, other;
    buffer b;
    char text[200];
    FILE *file;
    int i, rc;

    memset(&b, 0, sizeof(b));
    if ((rc = half_way(api, kernel, &m, &task, &base, &c)) != 0)
        return rc;

    /* not while a context has the process */
    MUST(api->save(m, put, &b, text, sizeof(text)) == -16 && b.n == 0);     /* EBUSY */
    MUST(strstr(text, "ctx_bind") != NULL);
    MUST(api->copy(m, &made, text, sizeof(text)) == -16 && made == NULL);
    MUST(api->copy(m, &made, NULL, 0) == -16);
    MUST(api->ctx_bind(c, 0, 0) == 0);

    b.limit = 1000;
    MUST(api->save(m, put, &b, text, sizeof(text)) == -5 && strstr(text, "written") != NULL);   /* EIO */
    b.limit = b.n = 0;
    MUST(api->save(m, put, &b, text, sizeof(text)) == (int64_t) b.n && text[0] == 0);
    MUST((file = fopen(path, "wb")) != NULL);
    MUST(api->save(m, put_file, file, NULL, 0) == (int64_t) b.n && fclose(file) == 0);

    MUST(api->load(fails, NULL, &made, text, sizeof(text)) == -5 && made == NULL);
    stops = b.n;
    b.n -= 7;
    MUST(api->load(get, &b, &made, text, sizeof(text)) == -22 && made == NULL);     /* EINVAL */
    MUST(strstr(text, "too early") != NULL);
    b.n = stops;
    b.data[b.n / 2] ^= 4;
    b.at = 0;
    MUST(api->load(get, &b, &made, text, sizeof(text)) == -22 && made == NULL && text[0]);
    b.data[b.n / 2] ^= 4;
    MUST(api->save(m, NULL, NULL, NULL, 0) == -14 && api->load(get, &b, NULL, NULL, 0) == -14);    /* EFAULT */
    MUST(api->load(NULL, &b, &made, NULL, 0) == -14 && api->copy(m, NULL, NULL, 0) == -14);

    for (i = 0; i < 3; i++) {
        b.at = 0;
        if (i == 0) {
            MUST(api->load(get, &b, &made, text, sizeof(text)) == 0 && text[0] == 0);
        } else if (i == 1) {
            MUST((file = fopen(path, "rb")) != NULL);
            MUST(api->load(get_file, file, &made, NULL, 0) == 0 && fclose(file) == 0);
        } else {
            MUST(api->copy(m, &made, text, sizeof(text)) == 0 && text[0] == 0);
        }
        MUST(api->machine_free(made) == PMG_EBUSYCTX);      /* its migration is in progress */
        if ((rc = rest(api, made, task, base, &other)) != 0)
            return rc;
        MUST(api->machine_free(made) == 0);
        if (i == 0) {           /* the others are untouched by it */
            own = other;
            continue;
        }
        MUST(memcmp(&own, &other, sizeof(own)) == 0);
    }
    if ((rc = rest(api, m, task, base, &other)) != 0)
        return rc;
    MUST(memcmp(&own, &other, sizeof(own)) == 0);
    api->ctx_close(c);
    MUST(api->machine_free(m) == 0);
    free(b.data);
    return 0;
}

/* Load a machine that Python saved, and save it again. */
int through_c(const pmg_api *api, const char *from, const char *to)
{
    pmg_machine *m;
    char text[200];
    FILE *file = fopen(from, "rb");

    MUST(file && api->load(get_file, file, &m, text, sizeof(text)) == 0 && fclose(file) == 0);
    MUST(api->check(m, 1, text, sizeof(text)) == 0);
    MUST((file = fopen(to, "wb")) != NULL);
    MUST(api->save(m, put_file, file, text, sizeof(text)) > 0 && fclose(file) == 0);
    MUST(api->machine_free(m) == 0);
    return 0;
}
