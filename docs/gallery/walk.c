/* Breadth first through a random graph, from several nodes: cc -O2 walk.c -o walk; ./walk */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NODES = 60000, EDGES = 360000, WALKS = 4 };

static uint64_t state = 1;

static uint32_t drawn(uint32_t below)
{
	state ^= state << 13, state ^= state >> 7, state ^= state << 17;
	return (uint32_t)((state >> 32) * below >> 32);
}

/* Half of the ends have few numbers, so that some nodes have many edges, as people do. */
static uint32_t end_of_edge(void)
{
	return drawn(2) ? drawn(NODES) : drawn(drawn(drawn(NODES) + 1) + 1);
}

int main(void)
{
	uint32_t *from = malloc(EDGES * sizeof *from), *to = malloc(EDGES * sizeof *to);
	uint32_t *first = calloc(NODES + 2, sizeof *first), *next = malloc(EDGES * sizeof *next);
	uint32_t *queue = malloc(NODES * sizeof *queue), *depth = malloc(NODES * sizeof *depth);

	for (uint32_t e = 0; e < EDGES; e++) {
		from[e] = end_of_edge();
		to[e] = end_of_edge();
		first[from[e] + 2]++;
	}
	for (uint32_t n = 2; n < NODES + 2; n++)
		first[n] += first[n - 1];
	for (uint32_t e = 0; e < EDGES; e++)
		next[first[from[e] + 1]++] = to[e];
	free(from), free(to);
	for (uint32_t walk = 0; walk < WALKS; walk++) {
		uint32_t begin = 0, end = 0, start = drawn(NODES);

		memset(depth, 0xff, NODES * sizeof *depth);
		depth[start] = 0;
		queue[end++] = start;
		while (begin < end) {
			uint32_t node = queue[begin++];

			for (uint32_t e = first[node]; e < first[node + 1]; e++)
				if (depth[next[e]] == UINT32_MAX) {
					depth[next[e]] = depth[node] + 1;
					queue[end++] = next[e];
				}
		}
		printf("%u reached from %u, the last at %u\n", end, start, depth[queue[end - 1]]);
	}
	return 0;
}
