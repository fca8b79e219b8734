/* Replay: run a fuzz target over every file of the folders (or files) given, with any compiler. Prints how many; a finding ends the program by
 * its signal, after the name of the input was printed. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static long run_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	if (!f) return perror(path), -1;
	fseek(f, 0, SEEK_END);
	long n = ftell(f);
	rewind(f);
	uint8_t *data = n >= 0 ? malloc((size_t)n + 1) : NULL;
	if (!data || fread(data, 1, (size_t)n, f) != (size_t)n) {
		perror(path);
		free(data);
		fclose(f);
		return -1;
	}
	fclose(f);
	uint8_t *exact = malloc(n ? (size_t)n : 1); /* sized exactly, so that reading past its end is seen */
	memcpy(exact, data, (size_t)n);
	free(data);
	fprintf(stderr, "%s", path);
	LLVMFuzzerTestOneInput(exact, (size_t)n);
	fprintf(stderr, "\r%*s\r", (int)strlen(path), "");
	free(exact);
	return 1;
}

static long run_path(const char *path)
{
	DIR *d = opendir(path);
	long n = 0;
	if (!d) return run_file(path);
	for (struct dirent *e; n >= 0 && (e = readdir(d));) {
		char name[4096];
		if (e->d_name[0] == '.') continue;
		snprintf(name, sizeof name, "%s/%s", path, e->d_name);
		long k = run_path(name);
		n = k < 0 ? -1 : n + k;
	}
	closedir(d);
	return n;
}

int main(int argc, char **argv)
{
	long n = 0;
	for (int i = 1; i < argc; i++) {
		long k = run_path(argv[i]);
		if (k < 0) return 1;
		n += k;
	}
	printf("%s: %ld inputs\n", argv[0], n);
	return n == 0;
}
