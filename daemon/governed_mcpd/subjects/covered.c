/* SPDX-License-Identifier: Apache-2.0
 *
 * governed_mcpd.subjects.covered: the opens of one sandbox that a lease covers, from their receipt to their answer.
 *
 * Most side effects are the same open again, of which everything is known: a lease was given for it, and the record is
 * ready but for its times. What is left is to receive the call, to look at what it opens, to write the record and to
 * answer. Python does that as well (supervisor/lanes, pause/observe, supervisor/decide, in this order), and what it
 * costs there is less its instructions than the memory that they touch: the processor's caches hold either the
 * interpreter's or the sandboxed program's. So this is the same way once more, for nothing but that case. Whatever
 * differs in anything is handed to Python as a held call that was only received, and Python begins from there.
 *
 * The GIL is released while a call is waited for, looked at, and recorded. One thread at a time serves.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "../journal/append.h"
#include "../kernel/look.h"

#define TMPFILE 020000000 /* asm-generic/fcntl.h __O_TMPFILE, without O_DIRECTORY */
/* pause/files: what an effect says of how it opens; and what is not a plain open. */
#define SHOWN (O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND)
#define OTHERWISE (O_PATH | O_EXCL | TMPFILE)
#define MOST 1024 /* opens that are known at the same time */

/* ---- what is known of one open */

typedef struct {
	PyObject_HEAD
	PyObject *lease, *effect; /* subjects/leases.Held, nouns/action.SideEffect */
	PyObject *parts[PARTS];	  /* bytes */
	double expires;		  /* of the lease: CLOCK_MONOTONIC, seconds */
} Known;

static void known_dealloc(Known *known)
{
	PyTypeObject *type = Py_TYPE(known);
	Py_XDECREF(known->lease);
	Py_XDECREF(known->effect);
	for (int part = 0; part < PARTS; part++)
		Py_XDECREF(known->parts[part]);
	type->tp_free(known);
	Py_DECREF(type);
}

static PyType_Slot known_slots[] = {
	{Py_tp_doc, "One open that a lease covers."},
	{Py_tp_dealloc, known_dealloc},
	{0, NULL},
};

static PyType_Spec known_spec = {
	.name = "governed_mcpd.subjects.covered.Known",
	.basicsize = sizeof(Known),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = known_slots,
};

/* ---- the sandbox */

typedef struct {
	PyObject_HEAD
	int listener;	    /* its own: the number cannot become another sandbox's while a thread serves */
	int proc, descriptors;
	unsigned int user;
	int open, openat;   /* numbers of the system calls, -1 where there is none */
	bool looks;	    /* false: calls are received here, and nothing more */
	PyObject *sandbox;  /* subjects/sandbox.Sandbox, and its main Subject, whose opens these are */
	PyObject *acting, *ledger, *server;
	PyObject *waiting;  /* the dict of its pauses: while one is open, nothing is covered */
	struct appender journal;
	Py_buffer slot;	    /* where the id of a received, unanswered call outlives this process; len 0: nowhere */
	PyObject *known;    /* by access and name */
	long long changes;  /* of the ledger, when `known` was begun */
	long long room;	    /* bytes of the journal that were taken from the sandbox's budget in advance */
	bool serving;
	/* The call that is looked at. `since` is perf_counter_ns of its receipt while the look lasts, else 0. */
	struct seccomp_notif notice;
	long long started, since;
	PyObject *lost;	    /* who has taken the call over from the thread that looks */
} Covered;

typedef struct {
	PyTypeObject *covered, *known;
	PyObject *held;
	/* interned names */
	PyObject *left, *changes, *governed, *allowed, *earlier, *append, *children;
	struct append_names journal;
} State;

static struct PyModuleDef module;

static State *state_of(Covered *self)
{
	return PyModule_GetState(PyType_GetModuleByDef(Py_TYPE(self), &module));
}

/* Whether an attribute is a dict with nothing in it. */
static bool without(PyObject *owner, PyObject *name)
{
	PyObject *value = PyObject_GetAttr(owner, name);
	bool none = value && PyDict_Check(value) && PyDict_GET_SIZE(value) == 0;
	Py_XDECREF(value);
	PyErr_Clear();
	return none;
}

static PyObject *held_of(Covered *self)
{
	const struct seccomp_notif *notice = &self->notice;
	const __u64 *args = notice->data.args;
	return PyObject_CallFunction(state_of(self)->held, "Kii(KKKKKK)", notice->id, (int)notice->pid, notice->data.nr,
				     args[0], args[1], args[2], args[3], args[4], args[5]);
}

/* ---- receiving, and looking */

/* The flags of a plain open(2) or openat(2), and which argument its path is; -1 for everything else. */
static long flags_of(const Covered *self, int number, const __u64 *args, int *path)
{
	if (number < 0)
		return -1;
	if (number == self->open)
		*path = 0;
	else if (number == self->openat)
		*path = 1;
	else
		return -1;
	int flags = (int)args[*path + 1];
	return flags & OTHERWISE ? -1 : flags & (SHOWN | O_NOFOLLOW);
}

enum found { NOTHING, RECEIVED, LOOKED };

/* Without the GIL: waits until `deadline` for a call of this sandbox or for `others` to be readable, and looks at the
 * call. Both are in one poll(2), not in one epoll: epoll forgets on which processor the caller waits (fs/eventpoll.c,
 * ep_poll_callback), and to wake another one is dear (kernel/seccomp.c, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP). */
static enum found next(Covered *self, int others, long long deadline, bool *last, struct look *look)
{
	struct pollfd waited[] = {{.fd = self->listener, .events = POLLIN}, {.fd = others, .events = POLLIN}};
	long long left = deadline - monotonic();
	bool due = left <= 0; /* one call all the same: where something is always due, it would never have its turn */
	struct timespec most = {.tv_sec = due ? 0 : left / 1000000000LL, .tv_nsec = due ? 0 : left % 1000000000LL};
	if (others >= 0 && (ppoll(waited, 2, &most, NULL) <= 0 || !(waited[0].revents & POLLIN)))
		return NOTHING;
	*last = others < 0 || due || waited[1].revents != 0;
	memset(&self->notice, 0, sizeof(self->notice)); /* the kernel answers EINVAL otherwise */
	if (ioctl(self->listener, SECCOMP_IOCTL_NOTIF_RECV, &self->notice))
		return NOTHING; /* its thread died; or the listener broke, which epoll says as well */
	self->started = monotonic();
	if (self->slot.len)
		memcpy(self->slot.buf, &self->notice.id, sizeof(self->notice.id));
	int path;
	const __u64 *args = self->notice.data.args;
	long flags = flags_of(self, self->notice.data.nr, args, &path);
	if (flags < 0 || !self->looks)
		return RECEIVED;
	look->tid = (pid_t)self->notice.pid;
	look->address = args[path];
	look->directory = path ? (int)args[0] : AT_FDCWD;
	look->user = self->user;
	look->flags = flags & O_NOFOLLOW;
	look->proc = self->proc;
	look->descriptors = self->descriptors;
	look->keep = false;
	__atomic_store_n(&self->since, self->started, __ATOMIC_RELEASE);
	look_at(look);
	return LOOKED;
}

/* ---- what a lease covers */

static PyObject *key_of(long flags, const char *name, Py_ssize_t length)
{
	int access = (int)(flags & SHOWN);
	PyObject *key = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)sizeof(access) + length);
	if (key) {
		memcpy(PyBytes_AS_STRING(key), &access, sizeof(access));
		memcpy(PyBytes_AS_STRING(key) + sizeof(access), name, (size_t)length);
	}
	return key;
}

/* What is known of the open that was looked at, if it is covered; borrowed. */
static Known *covering(Covered *self, const State *state, const struct look *look)
{
	if (!look->plain || !S_ISREG(look->status.st_mode) || look->status.st_nlink == 0 || look->name[0] != '/')
		return NULL;
	/* A child Subject has a lease of its own, a tool call its contract; a thread with two calls was interrupted. The
	 * children are another dict whenever one comes or goes. */
	if (!without(self->sandbox, state->children) || PyDict_GET_SIZE(self->waiting) ||
	    !is(self->server, state->governed, Py_False))
		return NULL;
	if (number_of(self->ledger, state->changes) != self->changes)
		return NULL; /* other leases since, or another policy: `add` begins anew */
	int path;
	long flags = flags_of(self, self->notice.data.nr, self->notice.data.args, &path);
	PyObject *key = key_of(flags, look->name, look->named);
	Known *known = key ? (Known *)PyDict_GetItemWithError(self->known, key) : NULL;
	Py_XDECREF(key);
	PyErr_Clear();
	if (!known || number_of(known->lease, state->left) <= 0 || (double)monotonic() / 1e9 >= known->expires)
		return NULL;
	/* Killed meanwhile: what was read may be of another thread, outside, that has its id now. */
	__u64 id = self->notice.id;
	return ioctl(self->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) ? NULL : known;
}

/* ---- the answer */

/* Counts the use and lets the call run: supervisor/decide, _let_go. Its thread may be gone: then the number of the record
 * that says otherwise; 0 else; -1 with an exception. */
static long long let_go(Covered *self, const State *state, const Known *known, long long seq)
{
	struct seccomp_notif_resp response = {.id = self->notice.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
	int failed = ioctl(self->listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
	if (self->slot.len)
		memset(self->slot.buf, 0, sizeof(self->notice.id));
	PyObject *earlier = PyObject_GetAttr(self->acting, state->earlier);
	PyObject *appended = earlier ? PyObject_CallMethodOneArg(earlier, state->append, known->effect) : NULL;
	bool counted = appended && set_number(known->lease, state->left, number_of(known->lease, state->left) - 1) &&
		       set_number(self->acting, state->allowed, number_of(self->acting, state->allowed) + 1);
	Py_XDECREF(earlier);
	Py_XDECREF(appended);
	if (!counted)
		return -1;
	return failed ? seq : 0;
}

static void refuse(Covered *self)
{
	struct seccomp_notif_resp response = {.id = self->notice.id, .error = -EPERM};
	ioctl(self->listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
}

/* ---- for Python */

PyDoc_STRVAR(serve_doc,
	     "serve(others, seconds): serves what a lease covers, until something else comes.\n\n"
	     "With -1 for `others` a call is there already, and only that one is served.\n"
	     "None: nothing did for `seconds`, or `others` is readable. A held call: it was received, and the rest is the\n"
	     "caller's. A number: the thread of the call with that record was gone before its answer. Anything else: what\n"
	     "`overtake` was given, while the look lasted.");

static PyObject *serve(Covered *self, PyObject *arguments)
{
	int others;
	double seconds;
	if (!PyArg_ParseTuple(arguments, "id", &others, &seconds))
		return NULL;
	if (self->serving) {
		PyErr_SetString(PyExc_RuntimeError, "another thread serves this sandbox");
		return NULL;
	}
	const State *state = state_of(self);
	long long deadline = monotonic() + (long long)(seconds * 1e9);
	bool last = false;
	PyObject *result = NULL;
	self->serving = true;
	while (!result) {
		struct look look;
		enum found found = NOTHING;
		if (!last) {
			Py_BEGIN_ALLOW_THREADS
			found = next(self, others, deadline, &last, &look);
			Py_END_ALLOW_THREADS
		}
		self->since = 0;
		if (self->lost) {
			result = self->lost;
			self->lost = NULL;
			break;
		}
		if (found == NOTHING) {
			result = Py_NewRef(Py_None);
			break;
		}
		Known *known = found == LOOKED ? covering(self, state, &look) : NULL;
		Py_XINCREF(known);
		long long seq =
			known ? append_prepared(&self->journal, &state->journal, known->parts, self->started, &self->room) : 0;
		if (!seq) {
			Py_XDECREF(known);
			result = held_of(self);
			if (!result)
				refuse(self); /* nobody else would ever answer it */
			break;
		}
		long long gone = let_go(self, state, known, seq);
		Py_DECREF(known);
		if (gone) {
			result = gone < 0 ? NULL : PyLong_FromLongLong(gone);
			break;
		}
	}
	self->serving = false;
	return result;
}

PyDoc_STRVAR(add_doc, "add(held, lease, expires, effect, parts, changes): this open, and all that are like it, are covered from here on.\n\n"
		      "`parts` are those of its prepared record, `changes` is the ledger's count. Other calls are left out.");

static PyObject *add(Covered *self, PyObject *arguments)
{
	State *state = state_of(self);
	PyObject *held, *lease, *effect, *parts[PARTS];
	double expires;
	long long changes;
	if (!PyArg_ParseTuple(arguments, "OOdO(SSSS)L", &held, &lease, &expires, &effect, &parts[0], &parts[1], &parts[2],
			      &parts[3], &changes))
		return NULL;
	__u64 args[6] = {0};
	int path, number;
	PyObject *registers = NULL, *object = NULL, *name = NULL, *key = NULL;
	Known *known = NULL;
	bool done = false;
	if (changes != self->changes) {
		PyDict_Clear(self->known);
		self->changes = changes;
	}
	PyObject *numbered = PyObject_GetAttrString(held, "number");
	number = numbered ? (int)PyLong_AsLong(numbered) : -1;
	Py_XDECREF(numbered);
	if (PyErr_Occurred())
		return NULL;
	registers = PyObject_GetAttrString(held, "args");
	if (!registers || !PyArg_ParseTuple(registers, "KKKKKK", &args[0], &args[1], &args[2], &args[3], &args[4], &args[5]))
		goto out;
	long flags = flags_of(self, number, args, &path);
	done = flags < 0 || !self->looks || PyDict_GET_SIZE(self->known) >= MOST;
	if (done)
		goto out;
	object = PyObject_GetAttrString(effect, "object");
	name = object ? PyUnicode_EncodeFSDefault(object) : NULL;
	key = name ? key_of(flags, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)) : NULL;
	known = key ? (Known *)state->known->tp_alloc(state->known, 0) : NULL;
	if (!known)
		goto out;
	known->lease = Py_NewRef(lease);
	known->effect = Py_NewRef(effect);
	known->expires = expires;
	for (int part = 0; part < PARTS; part++)
		known->parts[part] = Py_NewRef(parts[part]);
	done = PyDict_SetItem(self->known, key, (PyObject *)known) == 0;
out:
	Py_XDECREF(registers);
	Py_XDECREF(object);
	Py_XDECREF(name);
	Py_XDECREF(key);
	Py_XDECREF(known);
	if (!done)
		return NULL;
	Py_RETURN_NONE;
}

PyDoc_STRVAR(looked_at_doc, "looked_at(): the call that is looked at, and perf_counter_ns of its receipt; None: nothing is.");

static PyObject *looked_at(Covered *self, PyObject *Py_UNUSED(none))
{
	long long since = __atomic_load_n(&self->since, __ATOMIC_ACQUIRE);
	PyObject *held = since ? held_of(self) : NULL;
	if (!since)
		Py_RETURN_NONE;
	return held ? Py_BuildValue("NL", held, since) : NULL;
}

PyDoc_STRVAR(overtake_doc, "overtake(id, what): has `serve` return `what`, and do no more with the call, when it comes back from\n"
			   "looking at the call with that id. False when it is not looking at it any more.");

/* With the GIL: `serve` takes it before it does anything with what it found. */
static PyObject *overtake(Covered *self, PyObject *arguments)
{
	unsigned long long id;
	PyObject *what;
	if (!PyArg_ParseTuple(arguments, "KO", &id, &what))
		return NULL;
	if (!__atomic_load_n(&self->since, __ATOMIC_ACQUIRE) || self->notice.id != id || self->lost)
		Py_RETURN_FALSE;
	self->lost = Py_NewRef(what);
	Py_RETURN_TRUE;
}

static PyMethodDef covered_methods[] = {
	{"serve", (PyCFunction)serve, METH_VARARGS, serve_doc},
	{"add", (PyCFunction)add, METH_VARARGS, add_doc},
	{"looked_at", (PyCFunction)looked_at, METH_NOARGS, looked_at_doc},
	{"overtake", (PyCFunction)overtake, METH_VARARGS, overtake_doc},
	{NULL},
};

static PyMemberDef covered_members[] = {
	{"started", T_LONGLONG, offsetof(Covered, started), READONLY, "perf_counter_ns at the receipt of the last call"},
	{"room", T_LONGLONG, offsetof(Covered, room), 0, "bytes of the journal that may still be written here"},
	{NULL},
};

PyDoc_STRVAR(covered_doc,
	     "Covered(listener, numbers, user, proc, descriptors, looks, sandbox, waiting, journal, slot)\n\n"
	     "The opens of one sandbox that a lease covers. `listener` is duplicated. `numbers` are those of open(2) and\n"
	     "openat(2), -1 where there is none; `user`, `proc` and `descriptors` as kernel/held.look has them, and like there\n"
	     "the serving thread has the sandbox's root and groups. Without `looks` calls are received and nothing more.\n"
	     "`waiting`: the dict of its pauses. `journal` is what Journal.direct returns. `slot`: 8 bytes for the id of a\n"
	     "received call, or empty.");

static PyObject *covered_new(PyTypeObject *type, PyObject *arguments, PyObject *Py_UNUSED(named))
{
	Covered *self = (Covered *)type->tp_alloc(type, 0);
	PyObject *sandbox, *waiting, *journal;
	int looks, listener;
	if (!self)
		return NULL;
	self->listener = -1;
	if (!PyArg_ParseTuple(arguments, "i(ii)IiipOO!O!w*", &listener, &self->open, &self->openat, &self->user,
			      &self->proc, &self->descriptors, &looks, &sandbox, &PyDict_Type, &waiting, &PyTuple_Type,
			      &journal, &self->slot) ||
	    appender_begin(&self->journal, journal))
		goto failed;
	self->listener = fcntl(listener, F_DUPFD_CLOEXEC, 0);
	if (self->listener < 0) {
		PyErr_SetFromErrno(PyExc_OSError);
		goto failed;
	}
	if (self->slot.len != 0 && self->slot.len != (Py_ssize_t)sizeof(self->notice.id)) {
		PyErr_SetString(PyExc_ValueError, "slot: expected 8 bytes or none");
		goto failed;
	}
	self->looks = looks;
	self->changes = -1;
	self->sandbox = Py_NewRef(sandbox);
	self->waiting = Py_NewRef(waiting);
	self->known = PyDict_New();
	self->acting = PyObject_GetAttrString(sandbox, "main");
	self->ledger = self->acting ? PyObject_GetAttrString(self->acting, "ledger") : NULL;
	PyObject *inflight = self->ledger ? PyObject_GetAttrString(self->acting, "inflight") : NULL;
	self->server = inflight ? PyObject_GetAttrString(inflight, "server") : NULL;
	Py_XDECREF(inflight);
	if (!self->known || !self->ledger || !self->server)
		goto failed;
	return (PyObject *)self;
failed:
	Py_DECREF(self);
	return NULL;
}

static int covered_traverse(Covered *self, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE(self));
	Py_VISIT(self->sandbox);
	Py_VISIT(self->acting);
	Py_VISIT(self->ledger);
	Py_VISIT(self->server);
	Py_VISIT(self->waiting);
	Py_VISIT(self->known);
	Py_VISIT(self->lost);
	return appender_visit(&self->journal, visit, arg);
}

static int covered_clear(Covered *self)
{
	Py_CLEAR(self->sandbox);
	Py_CLEAR(self->acting);
	Py_CLEAR(self->ledger);
	Py_CLEAR(self->server);
	Py_CLEAR(self->waiting);
	Py_CLEAR(self->known);
	appender_clear(&self->journal);
	Py_CLEAR(self->lost);
	return 0;
}

static void covered_dealloc(Covered *self)
{
	PyTypeObject *type = Py_TYPE(self);
	PyObject_GC_UnTrack(self);
	covered_clear(self);
	if (self->slot.obj)
		PyBuffer_Release(&self->slot);
	if (self->listener >= 0)
		close(self->listener);
	type->tp_free(self);
	Py_DECREF(type);
}

static PyType_Slot covered_slots[] = {
	{Py_tp_doc, (void *)covered_doc},
	{Py_tp_new, covered_new},
	{Py_tp_dealloc, covered_dealloc},
	{Py_tp_traverse, covered_traverse},
	{Py_tp_clear, covered_clear},
	{Py_tp_methods, covered_methods},
	{Py_tp_members, covered_members},
	{0, NULL},
};

static PyType_Spec covered_spec = {
	.name = "governed_mcpd.subjects.covered.Covered",
	.basicsize = sizeof(Covered),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
	.slots = covered_slots,
};

/* ---- the module */

static int add_types(PyObject *built)
{
	State *state = PyModule_GetState(built);
	const struct {
		PyObject **name;
		const char *text;
	} names[] = {
		{&state->left, "left"},
		{&state->changes, "changes"},
		{&state->governed, "governed"},
		{&state->allowed, "allowed"},
		{&state->earlier, "earlier"},
		{&state->append, "append"},
		{&state->children, "children"},
	};
	for (size_t index = 0; index < sizeof(names) / sizeof(*names); index++)
		if (!(*names[index].name = PyUnicode_InternFromString(names[index].text)))
			return -1;
	if (append_names_begin(&state->journal))
		return -1;
	PyObject *held = PyImport_ImportModule("governed_mcpd.kernel.held");
	state->held = held ? PyObject_GetAttrString(held, "Held") : NULL;
	Py_XDECREF(held);
	state->covered = (PyTypeObject *)PyType_FromModuleAndSpec(built, &covered_spec, NULL);
	state->known = (PyTypeObject *)PyType_FromModuleAndSpec(built, &known_spec, NULL);
	if (!state->held || !state->covered || !state->known)
		return -1;
	return PyModule_AddType(built, state->covered) ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {
	{Py_mod_exec, add_types},
	{0, NULL},
};

/* The module is never unloaded: the daemon has it for as long as it runs. */
static struct PyModuleDef module = {
	PyModuleDef_HEAD_INIT,
	.m_name = "governed_mcpd.subjects.covered",
	.m_doc = "The opens of one sandbox that a lease covers, from their receipt to their answer.",
	.m_size = sizeof(State),
	.m_slots = slots,
};

PyMODINIT_FUNC PyInit_covered(void)
{
	return PyModuleDef_Init(&module);
}
