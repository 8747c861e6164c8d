/* A stand-in for the driver's library in tests: two devices, the second one as
 * WORSE says. NO_UUID leaves a function out, as an old driver would.
 * Handles are one-pointer structs, which a C call passes as the pointer. */
#include <stdio.h>
#include <string.h>

#define SUCCESS 0
#define NOT_SUPPORTED 3
#define DRIVER_NOT_LOADED 9
#define IS_LOST 15

#ifndef INIT
#define INIT SUCCESS
#endif
#ifndef MEMORY
#define MEMORY SUCCESS
#endif
#ifndef PENDING
#define PENDING 0
#endif

typedef struct { void *handle; } device;
typedef struct { unsigned long long total, free, used; } memory;

int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Error"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *d) { d->handle = (void *)(long)(index + 1); return SUCCESS; }
int nvmlDeviceGetName(device d, char *name, unsigned size) { snprintf(name, size, "NVIDIA H100 80GB HBM3"); return SUCCESS; }
int nvmlDeviceGetMemoryInfo(device d, memory *m) {
	if (d.handle == (void *)2 && MEMORY) return MEMORY;
	memset(m, 0, sizeof *m);
	m->total = 81559ULL << 20;
	return SUCCESS;
}
#ifndef NO_UUID
int nvmlDeviceGetUUID(device d, char *uuid, unsigned size) { snprintf(uuid, size, "GPU-%ld", (long)d.handle); return SUCCESS; }
#endif
#ifdef ROWS
int nvmlDeviceGetRemappedRows(device d, unsigned *correctable, unsigned *uncorrectable, unsigned *pending, unsigned *failed) {
	*correctable = *uncorrectable = *failed = 0;
	*pending = d.handle == (void *)2 ? PENDING : 0;
	return SUCCESS;
}
#endif
