/* SPDX-License-Identifier: Apache-2.0
 *
 * governed_mcpd.kernel.held: what is asked of the kernel for every held call, without Python in between.
 *
 * A held call waits while it is looked at, and Python's way to one system call costs more than the call itself. So
 * those that every call needs are here: receiving it, answering it, and the plain look (look.h).
 *
 * The GIL is released where something is waited for, once: a file system that never answers must hold up nobody else.
 * Answering and asking whether a call waits only look the notification up (kernel/seccomp.c).
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>

#include "look.h"

/* ---- the types */

typedef struct {
	PyObject_HEAD
	unsigned long long id;
	int tid;
	int number;
	PyObject *args;
} Held;

static PyMemberDef held_members[] = {
	{"id", T_ULONGLONG, offsetof(Held, id), READONLY, "names the notification"},
	{"tid", T_INT, offsetof(Held, tid), READONLY, "thread id in the daemon's pid namespace"},
	{"number", T_INT, offsetof(Held, number), READONLY, "the system call"},
	{"args", T_OBJECT_EX, offsetof(Held, args), READONLY, "raw registers"},
	{NULL},
};

static PyObject *held_new(PyTypeObject *type, PyObject *words, PyObject *named)
{
	static char *names[] = {"id", "tid", "number", "args", NULL};
	unsigned long long id;
	int tid, number;
	PyObject *args;
	if (!PyArg_ParseTupleAndKeywords(words, named, "KiiO!", names, &id, &tid, &number, &PyTuple_Type, &args))
		return NULL;
	Held *held = (Held *)type->tp_alloc(type, 0);
	if (!held)
		return NULL;
	held->id = id;
	held->tid = tid;
	held->number = number;
	held->args = Py_NewRef(args);
	return (PyObject *)held;
}

static void held_dealloc(Held *held)
{
	PyTypeObject *type = Py_TYPE(held);
	Py_XDECREF(held->args);
	type->tp_free(held);
	Py_DECREF(type);
}

static PyType_Slot held_slots[] = {
	{Py_tp_doc, "One system call that waits: seccomp_unotify(2), struct seccomp_notif."},
	{Py_tp_new, held_new},
	{Py_tp_dealloc, held_dealloc},
	{Py_tp_members, held_members},
	{0, NULL},
};

static PyType_Spec held_spec = {
	.name = "governed_mcpd.kernel.held.Held",
	.basicsize = sizeof(Held),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = held_slots,
};

typedef struct {
	PyObject_HEAD
	unsigned int mode;
	unsigned long long links, device, of;
} Status;

static PyMemberDef status_members[] = {
	{"st_mode", T_UINT, offsetof(Status, mode), READONLY, "type and permissions"},
	{"st_nlink", T_ULONGLONG, offsetof(Status, links), READONLY, "how many names it has"},
	{"st_rdev", T_ULONGLONG, offsetof(Status, device), READONLY, "which device it is"},
	{"st_dev", T_ULONGLONG, offsetof(Status, of), READONLY, "which device it is on"},
	{NULL},
};

static void status_dealloc(Status *status)
{
	PyTypeObject *type = Py_TYPE(status);
	type->tp_free(status);
	Py_DECREF(type);
}

static PyType_Slot status_slots[] = {
	{Py_tp_doc, "The part of stat(2) that is asked for."},
	{Py_tp_dealloc, status_dealloc},
	{Py_tp_members, status_members},
	{0, NULL},
};

static PyType_Spec status_spec = {
	.name = "governed_mcpd.kernel.held.Status",
	.basicsize = sizeof(Status),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = status_slots,
};

typedef struct {
	PyTypeObject *held, *status;
} State;

static bool numbers(PyObject *const *given, Py_ssize_t count, Py_ssize_t wanted, unsigned long long *into,
		    const char *name)
{
	if (count != wanted) {
		PyErr_Format(PyExc_TypeError, "%s takes %zd numbers, not %zd", name, wanted, count);
		return false;
	}
	for (Py_ssize_t index = 0; index < count; index++) {
		into[index] = PyLong_AsUnsignedLongLongMask(given[index]);
		if (into[index] == (unsigned long long)-1 && PyErr_Occurred())
			return false;
	}
	return true;
}

/* ---- receiving and answering: seccomp_unotify(2) */

PyDoc_STRVAR(receive_doc, "receive(listener): the next held call; None when its thread died before. OSError.");

static PyObject *receive(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
	unsigned long long listener;
	struct seccomp_notif notice;
	int failed;
	if (!numbers(given, count, 1, &listener, "receive"))
		return NULL;
	memset(&notice, 0, sizeof(notice)); /* the kernel answers EINVAL otherwise */
	Py_BEGIN_ALLOW_THREADS
	failed = ioctl((int)listener, SECCOMP_IOCTL_NOTIF_RECV, &notice);
	Py_END_ALLOW_THREADS
	if (failed) {
		if (errno == ENOENT || errno == EINTR)
			Py_RETURN_NONE;
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	PyObject *args = PyTuple_New(6);
	if (!args)
		return NULL;
	for (int index = 0; index < 6; index++) {
		PyObject *value = PyLong_FromUnsignedLongLong(notice.data.args[index]);
		if (!value) {
			Py_DECREF(args);
			return NULL;
		}
		PyTuple_SET_ITEM(args, index, value);
	}
	PyTypeObject *type = ((State *)PyModule_GetState(module))->held;
	Held *held = (Held *)type->tp_alloc(type, 0);
	if (!held) {
		Py_DECREF(args);
		return NULL;
	}
	held->id = notice.id;
	held->tid = (int)notice.pid;
	held->number = notice.data.nr;
	held->args = args;
	return (PyObject *)held;
}

PyDoc_STRVAR(answer_doc, "answer(listener, id, errno, flags): False when the call waits no longer. OSError.\n\n"
			 "`flags` 1 (SECCOMP_USER_NOTIF_FLAG_CONTINUE) lets the kernel run the call.");

static PyObject *answer(PyObject *Py_UNUSED(module), PyObject *const *given, Py_ssize_t count)
{
	unsigned long long words[4];
	int failed;
	if (!numbers(given, count, 4, words, "answer"))
		return NULL;
	struct seccomp_notif_resp response = {
		.id = words[1], .error = -(int)words[2], .flags = (unsigned int)words[3]};
	failed = ioctl((int)words[0], SECCOMP_IOCTL_NOTIF_SEND, &response);
	if (!failed)
		Py_RETURN_TRUE;
	if (errno == ENOENT || errno == EINPROGRESS)
		Py_RETURN_FALSE;
	return PyErr_SetFromErrno(PyExc_OSError);
}

PyDoc_STRVAR(waits_doc, "waits(listener, id): whether the call still waits. OSError.");

static PyObject *waits(PyObject *Py_UNUSED(module), PyObject *const *given, Py_ssize_t count)
{
	unsigned long long words[2];
	int failed;
	if (!numbers(given, count, 2, words, "waits"))
		return NULL;
	__u64 id = words[1];
	failed = ioctl((int)words[0], SECCOMP_IOCTL_NOTIF_ID_VALID, &id);
	if (!failed)
		Py_RETURN_TRUE;
	if (errno == ENOENT)
		Py_RETURN_FALSE;
	return PyErr_SetFromErrno(PyExc_OSError);
}

/* ---- looking: kernel/look.h */

PyDoc_STRVAR(look_doc,
	     "look(tid, address, directory, flags, user, keep, proc, descriptors): (path, descriptor, name, status).\n\n"
	     "The path at `address` in the thread's memory, and what it leads to for the user `user`, from the thread's\n"
	     "`directory` (AT_FDCWD or a descriptor of the thread's), in this thread's root and with its groups; `flags`\n"
	     "is 0 or O_NOFOLLOW. With `keep` the caller owns the descriptor (O_PATH), without it is -1. Where something\n"
	     "is not plain, `name` and `status` are None: nothing was found out then, and perhaps not even the path.\n"
	     "`proc` is open on /proc, `descriptors` on /proc/self/fd.");

static PyObject *look(PyObject *module, PyObject *const *given, Py_ssize_t count)
{
	unsigned long long words[8];
	if (!numbers(given, count, 8, words, "look"))
		return NULL;
	struct look found;
	found.tid = (pid_t)words[0];
	found.address = words[1];
	found.directory = (int)words[2];
	found.flags = words[3];
	found.user = (unsigned int)words[4];
	found.keep = words[5] != 0;
	found.proc = (int)words[6];
	found.descriptors = (int)words[7];
	Py_BEGIN_ALLOW_THREADS
	look_at(&found);
	Py_END_ALLOW_THREADS
	if (found.length < 0)
		return Py_BuildValue("OiOO", Py_None, -1, Py_None, Py_None);
	if (!found.plain)
		return Py_BuildValue("y#iOO", found.path, (Py_ssize_t)found.length, -1, Py_None, Py_None);
	PyTypeObject *type = ((State *)PyModule_GetState(module))->status;
	Status *status = (Status *)type->tp_alloc(type, 0);
	PyObject *name = PyUnicode_DecodeFSDefaultAndSize(found.name, found.named);
	PyObject *path = PyBytes_FromStringAndSize(found.path, found.length);
	PyObject *result = status && name && path ? PyTuple_New(4) : NULL;
	PyObject *opened = result ? PyLong_FromLong(found.opened) : NULL;
	if (!opened) {
		if (found.opened >= 0)
			close(found.opened);
		Py_XDECREF(status);
		Py_XDECREF(name);
		Py_XDECREF(path);
		Py_XDECREF(result);
		return NULL;
	}
	status->mode = found.status.st_mode;
	status->links = found.status.st_nlink;
	status->device = found.status.st_rdev;
	status->of = found.status.st_dev;
	PyTuple_SET_ITEM(result, 0, path);
	PyTuple_SET_ITEM(result, 1, opened);
	PyTuple_SET_ITEM(result, 2, name);
	PyTuple_SET_ITEM(result, 3, (PyObject *)status);
	return result;
}

/* ---- the module */

static PyMethodDef methods[] = {
	{"receive", (PyCFunction)(void (*)(void))receive, METH_FASTCALL, receive_doc},
	{"answer", (PyCFunction)(void (*)(void))answer, METH_FASTCALL, answer_doc},
	{"waits", (PyCFunction)(void (*)(void))waits, METH_FASTCALL, waits_doc},
	{"look", (PyCFunction)(void (*)(void))look, METH_FASTCALL, look_doc},
	{NULL},
};

static int add_types(PyObject *module)
{
	State *state = PyModule_GetState(module);
	state->held = (PyTypeObject *)PyType_FromModuleAndSpec(module, &held_spec, NULL);
	state->status = (PyTypeObject *)PyType_FromModuleAndSpec(module, &status_spec, NULL);
	if (!state->held || !state->status)
		return -1;
	return PyModule_AddType(module, state->held) || PyModule_AddType(module, state->status) ? -1 : 0;
}

static int visit_types(PyObject *module, visitproc visit, void *arg)
{
	State *state = PyModule_GetState(module);
	Py_VISIT(state->held);
	Py_VISIT(state->status);
	return 0;
}

static int clear_types(PyObject *module)
{
	State *state = PyModule_GetState(module);
	Py_CLEAR(state->held);
	Py_CLEAR(state->status);
	return 0;
}

static PyModuleDef_Slot slots[] = {
	{Py_mod_exec, add_types},
	{0, NULL},
};

static PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "governed_mcpd.kernel.held",
	.m_doc = "What is asked of the kernel for every held call: receiving, looking, answering.",
	.m_size = sizeof(State),
	.m_methods = methods,
	.m_slots = slots,
	.m_traverse = visit_types,
	.m_clear = clear_types,
};

PyMODINIT_FUNC PyInit_held(void)
{
	return PyModuleDef_Init(&definition);
}
