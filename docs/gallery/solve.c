/* Solve a linear system with the LAPACK that numpy ships, as numpy.linalg.solve does:
 * cc -O2 solve.c -o solve; ./solve .../numpy.libs/libscipy_openblas64_*.so */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 520, RIGHT = 4 };

static double drawn(void)
{
	static uint64_t state = 1;

	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return (double)(int64_t)state / INT64_MAX;
}

int main(int argc, char **argv)
{
	void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
	void (*dgesv)(int64_t *, int64_t *, double *, int64_t *, int64_t *, double *, int64_t *, int64_t *);
	int64_t n = N, right = RIGHT, pivots[N], wrong = 0;
	double *matrix = malloc(sizeof *matrix * N * N), *answer = malloc(sizeof *answer * N * RIGHT);

	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	*(void **)&dgesv = dlsym(library, "scipy_dgesv_64_");
	if (!dgesv)
		return 1;
	for (size_t at = 0; at < N * N; at++)
		matrix[at] = drawn();
	for (size_t at = 0; at < N * RIGHT; at++)
		answer[at] = drawn();
	dgesv(&n, &right, matrix, &n, pivots, answer, &n, &wrong);
	printf("%d: %g\n", (int)wrong, answer[0]);
	return (int)wrong;
}
