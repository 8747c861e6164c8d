/* A stand-in for the driver's library in tests, built against the binding's own
 * header. What it pretends is said by the environment, so that one build serves
 * all tests; only functions that it shall lack are left out when it is built
 * (NO_UUID, OLD).
 *
 *   DOUBLE_GPUS     how many devices (2)
 *   DOUBLE_INIT     what nvmlInit answers (0)
 *   DOUBLE_MEMORY   what the memory call answers for the last device (0)
 *   DOUBLE_MIG      how many instances device 0 is cut into (0)
 *   DOUBLE_LINKS    none, pair (0-1, 2-3, ...), switch (all)
 *   DOUBLE_FABRIC   if set, the devices are in a clique of a fabric
 *   DOUBLE_CC       if set, confidential computing is on; "dev": with developers' tools
 *   DOUBLE_PENDING, DOUBLE_FAILED, DOUBLE_THROTTLE   of the last device
 *   DOUBLE_LIE      memory: the last device has more than there is; uuid: it has the UUID of the one before
 *   DOUBLE_EVENTS   a file of lines "device xid": told once each; 79 loses the device
 *   DOUBLE_RECOVERY what the driver asks for the last device, by its number (0)
 *   DOUBLE_SHUT     a file: while it is there, the last device has no handle
 *   DOUBLE_BLIND    a file: while it is there, nobody can say whether MIG is on, nor the UUID of the first instance
 *   DOUBLE_HANG     a file: while it is there, the call for utilisation does not return
 *   DOUBLE_CRASH    a file: while it is there, the same call crashes
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include "nvml.h"

#define API __attribute__((visibility("default")))
#define MAX 64

static int lost[MAX];
static long told;

static int number(const char *name, int otherwise) {
	const char *v = getenv(name);
	return v && *v ? atoi(v) : otherwise;
}
static int gpus(void) { return number("DOUBLE_GPUS", 2); }

/* A handle is 1 + the device's index; instances follow from 1000 on. */
static nvmlDevice_t handle(long n) { nvmlDevice_t d; d.handle = (struct nvmlDevice_st *)(n + 1); return d; }
static long of(nvmlDevice_t d) { return (long)d.handle - 1; }
static int isInstance(nvmlDevice_t d) { return of(d) >= 1000; }
static long gpuOf(nvmlDevice_t d) { return isInstance(d) ? 0 : of(d); }
static nvmlReturn_t state(nvmlDevice_t d) { return lost[gpuOf(d)] ? NVML_ERROR_GPU_IS_LOST : NVML_SUCCESS; }
static int last(nvmlDevice_t d) { return of(d) == gpus() - 1; }

static int lies(const char *about) { const char *v = getenv("DOUBLE_LIE"); return v && !strcmp(v, about); }

API nvmlReturn_t nvmlInit_v2(void) { return number("DOUBLE_INIT", 0); }
API nvmlReturn_t nvmlShutdown(void) { return NVML_SUCCESS; }
API const char *nvmlErrorString(nvmlReturn_t code) {
	switch (code) {
	case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
	case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
	case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
	default: return "Unknown Error";
	}
}
API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) { *count = gpus(); return NVML_SUCCESS; }
static int there(const char *name) { const char *file = getenv(name); return file && !access(file, F_OK); }
API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *d) {
	*d = handle(index);
	return last(*d) && there("DOUBLE_SHUT") ? NVML_ERROR_UNKNOWN : NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t d, char *name, unsigned size) {
	if (state(d)) return state(d);
	snprintf(name, size, isInstance(d) ? "NVIDIA H100 80GB HBM3 MIG 1g.10gb" : "NVIDIA H100 80GB HBM3");
	return NVML_SUCCESS;
}
API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t d, nvmlMemory_t *m) {
	if (state(d)) return state(d);
	if (last(d) && number("DOUBLE_MEMORY", 0)) return number("DOUBLE_MEMORY", 0);
	memset(m, 0, sizeof *m);
	m->total = (isInstance(d) ? 9984ULL : 81559ULL) << 20;
	if (last(d) && lies("memory")) m->total = ~0ULL;
	m->used = m->total / 4 + (300ULL << 20);
	return NVML_SUCCESS;
}
#ifndef NO_UUID
API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t d, char *uuid, unsigned size) {
	if (state(d)) return state(d);
	if (of(d) == 1000 && there("DOUBLE_BLIND")) return NVML_ERROR_UNKNOWN;
	snprintf(uuid, size, isInstance(d) ? "MIG-%ld" : "GPU-%ld", isInstance(d) ? of(d) - 1000 : of(d) - (last(d) && lies("uuid")));
	return NVML_SUCCESS;
}
#endif

#ifndef OLD
API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned size) { snprintf(version, size, "580.65.06"); return NVML_SUCCESS; }
API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13010; return NVML_SUCCESS; }
API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t d, nvmlMemory_v2_t *m) {
	nvmlMemory_t first;
	nvmlReturn_t r = nvmlDeviceGetMemoryInfo(d, &first);
	if (r) return r;
	m->total = first.total; m->reserved = 300ULL << 20; m->used = first.used - m->reserved; m->free = m->total - first.used;
	return NVML_SUCCESS;
}
static void address(nvmlDevice_t d, nvmlPciInfo_t *p) {
	memset(p, 0, sizeof *p);
	snprintf(p->busId, sizeof p->busId, "00000000:%02lX:00.0", 16 + gpuOf(d));
}
API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t d, nvmlPciInfo_t *p) { if (state(d)) return state(d); address(d, p); return NVML_SUCCESS; }
API nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t d, nvmlDeviceArchitecture_t *a) { *a = NVML_DEVICE_ARCH_HOPPER; return state(d); }
API nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t d, unsigned size, unsigned long *set, nvmlAffinityScope_t scope) {
	memset(set, 0, size * sizeof *set);
	set[0] = 1UL << (gpuOf(d) * 2 / (gpus() > 1 ? gpus() : 2));
	return state(d);
}
API nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t d, nvmlGpuFabricInfoV_t *info) {
	nvmlGpuFabricInfo_v2_t *i = (nvmlGpuFabricInfo_v2_t *)info;
	if (!getenv("DOUBLE_FABRIC")) return NVML_ERROR_NOT_SUPPORTED;
	memset(i->clusterUuid, 0xab, sizeof i->clusterUuid);
	i->cliqueId = 7; i->state = NVML_GPU_FABRIC_STATE_COMPLETED; i->status = NVML_SUCCESS;
	return state(d);
}
API nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t d, nvmlEnableState_t *now, nvmlEnableState_t *pending) { *now = *pending = NVML_FEATURE_ENABLED; return state(d); }
API nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t d, nvmlMemoryErrorType_t t, nvmlEccCounterType_t c, unsigned long long *n) { *n = 0; return state(d); }
API nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t d, unsigned *correctable, unsigned *uncorrectable, unsigned *pending, unsigned *failed) {
	*correctable = *uncorrectable = 0;
	*pending = last(d) && number("DOUBLE_PENDING", 0);
	*failed = last(d) && number("DOUBLE_FAILED", 0);
	return state(d);
}
API nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t d, unsigned long long *bits) { *bits = last(d) ? number("DOUBLE_THROTTLE", 1) : 1; return state(d); }
API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t d, unsigned *now, unsigned *pending) { *now = *pending = of(d) == 0 && number("DOUBLE_MIG", 0); return there("DOUBLE_BLIND") && number("DOUBLE_MIG", 0) != 1 ? NVML_ERROR_UNKNOWN : state(d); }
API nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t d, unsigned *n) { *n = 7; return state(d); }
API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t d, unsigned index, nvmlDevice_t *m) {
	if (of(d) != 0 || (int)index >= number("DOUBLE_MIG", 0)) return NVML_ERROR_NOT_FOUND;
	*m = handle(1000 + index);
	return state(d);
}
API nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t d, nvmlDeviceAttributes_t *a) {
	memset(a, 0, sizeof *a);
	a->gpuInstanceSliceCount = a->computeInstanceSliceCount = 1;
	a->memorySizeMB = 9984;
	return state(d);
}
API nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t d, unsigned profile, nvmlGpuInstanceProfileInfo_t *info) {
	static const unsigned slices[] = {1, 2, 3, 4, 7}, eighths[] = {1, 2, 4, 4, 8};
	if (profile >= 5) return NVML_ERROR_NOT_SUPPORTED;
	memset(info, 0, sizeof *info);
	info->sliceCount = slices[profile];
	info->memorySizeMB = 81559 * eighths[profile] / 8;
	return state(d);
}
API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t d, int n, nvmlFieldValue_t *v) {
	for (; n-- > 0; v++) {
		v->nvmlReturn = v->fieldId == NVML_FI_DEV_GET_GPU_RECOVERY_ACTION ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
		v->value.uiVal = last(d) ? number("DOUBLE_RECOVERY", 0) : 0;
	}
	return state(d);
}
API nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t d, unsigned link, nvmlNvLinkErrorCounter_t kind, unsigned long long *n) {
	*n = kind == NVML_NVLINK_ERROR_DL_REPLAY;
	return link < 18 ? state(d) : NVML_ERROR_INVALID_ARGUMENT;
}
API nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t d, unsigned *id) { *id = 7 + of(d) - 1000; return state(d); }
API nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t d, unsigned *id) { *id = 0; return state(d); }

static int links(const char *kind) { const char *v = getenv("DOUBLE_LINKS"); return v && !strcmp(v, kind); }
API nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t d, unsigned link, nvmlEnableState_t *on) {
	if (link >= 18) return NVML_ERROR_INVALID_ARGUMENT;
	*on = links("pair") || links("switch") ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
	return state(d);
}
API nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t d, unsigned link, nvmlIntNvLinkDeviceType_t *type) {
	*type = links("switch") ? NVML_NVLINK_DEVICE_TYPE_SWITCH : NVML_NVLINK_DEVICE_TYPE_GPU;
	return state(d);
}
API nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t d, unsigned link, nvmlPciInfo_t *p) { address(handle(of(d) ^ 1), p); return state(d); }

API nvmlReturn_t nvmlSystemGetConfComputeState(nvmlConfComputeSystemState_t *s) {
	const char *cc = getenv("DOUBLE_CC");
	s->ccFeature = cc ? 1 : 0;
	s->environment = cc ? NVML_CC_SYSTEM_ENVIRONMENT_PROD : NVML_CC_SYSTEM_ENVIRONMENT_UNAVAILABLE;
	s->devToolsMode = cc && !strcmp(cc, "dev") ? NVML_CC_SYSTEM_DEVTOOLS_MODE_ON : NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF;
	return NVML_SUCCESS;
}
API nvmlReturn_t nvmlSystemGetConfComputeGpusReadyState(unsigned *ready) { *ready = 1; return NVML_SUCCESS; }

API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t d, nvmlUtilization_t *u) {
	const char *file = getenv("DOUBLE_HANG");
	while (file && !access(file, F_OK)) usleep(10000);
	if ((file = getenv("DOUBLE_CRASH")) && !access(file, F_OK)) abort();
	u->gpu = 37; u->memory = 12;
	return state(d);
}
API nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t d, unsigned *mw) { *mw = 412345; return state(d); }
API nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t d, unsigned *mw) { *mw = 700000; return state(d); }
API nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t d, unsigned long long *mj) { *mj = 123456789; return state(d); }
API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t d, nvmlTemperatureSensors_t sensor, unsigned *t) { *t = 54; return state(d); }
API nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t d, nvmlClockType_t type, unsigned *mhz) { *mhz = type == NVML_CLOCK_SM ? 1980 : 2619; return state(d); }
API nvmlReturn_t nvmlDeviceGetPcieReplayCounter(nvmlDevice_t d, unsigned *n) { return NVML_ERROR_NOT_SUPPORTED; }

API nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) { memset(set, 0, sizeof *set); return NVML_SUCCESS; }
API nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) { return NVML_SUCCESS; }
API nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t d, unsigned long long *types) { *types = nvmlEventTypeXidCriticalError; return NVML_SUCCESS; }
API nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t d, unsigned long long types, nvmlEventSet_t set) { return NVML_SUCCESS; }
API nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *e, unsigned limit) {
	const char *path = getenv("DOUBLE_EVENTS");
	for (unsigned waited = 0;; waited += 5) {
		FILE *f = path ? fopen(path, "r") : NULL;
		if (f) {
			int gpu, mig = -1; unsigned long long xid; char text[128], *ok;
			fseek(f, told, SEEK_SET);
			ok = fgets(text, sizeof text, f);
			if (ok && strchr(text, '\n') && sscanf(text, "%d %llu %d", &gpu, &xid, &mig) >= 2 && gpu >= 0 && gpu < MAX) {
				told = ftell(f);
				fclose(f);
				memset(e, 0, sizeof *e);
				e->device = handle(gpu); e->eventType = nvmlEventTypeXidCriticalError; e->eventData = xid;
				e->gpuInstanceId = e->computeInstanceId = 0xFFFFFFFF;
				if (mig >= 0) { e->gpuInstanceId = 7 + mig; e->computeInstanceId = 0; }
				if (xid == 79) lost[gpu] = 1;
				return NVML_SUCCESS;
			}
			fclose(f);
		}
		if (waited >= limit) return NVML_ERROR_TIMEOUT;
		usleep(5000);
	}
}
#endif
