/* SPDX-License-Identifier: Apache-2.0
 *
 * Appends a prepared record: what journal/journal, journal/writer and journal/chain do for one, without the interpreter.
 * Whatever is not plain (a failure, a full segment, a sync that is due, a budget that is used up) is left to them.
 * Included after Python.h, with _GNU_SOURCE, by subjects/covered.c.
 */
#pragma once

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DIGEST 32 /* bytes of a BLAKE3 digest */
#define HEX (2 * DIGEST)
#define PARTS 4 /* of a prepared record: what stands before, between and after its three times */
#define NUMBER 24 /* bytes that hold any 64-bit number and a NUL */

/* What Journal.direct returns. */
struct appender {
	PyObject *journal, *writer, *acquire, *release, *blake3, *domain;
	long long behind; /* bytes that may be written before the journal's thread is told to sync */
};

struct append_names { /* interned */
	PyObject *failure, *closing, *idle, *segments, *segment_bytes, *head, *length, *behind, *descriptor, *size, *tail,
		*digest;
};

static int append_names_begin(struct append_names *names)
{
	const struct {
		PyObject **name;
		const char *text;
	} all[] = {
		{&names->failure, "_failure"},
		{&names->closing, "_closing"},
		{&names->idle, "_idle"},
		{&names->segments, "segments"},
		{&names->segment_bytes, "segment_bytes"},
		{&names->head, "head"},
		{&names->length, "length"},
		{&names->behind, "behind"},
		{&names->descriptor, "descriptor"},
		{&names->size, "size"},
		{&names->tail, "tail"},
		{&names->digest, "digest"},
	};
	for (size_t index = 0; index < sizeof(all) / sizeof(*all); index++)
		if (!(*all[index].name = PyUnicode_InternFromString(all[index].text)))
			return -1;
	return 0;
}

/* -1 with an exception; `appender_clear` undoes it in either case. */
static int appender_begin(struct appender *self, PyObject *direct)
{
	PyObject *journal, *writer, *lock, *blake3, *domain;
	if (!PyArg_ParseTuple(direct, "OOOLOS", &journal, &writer, &lock, &self->behind, &blake3, &domain))
		return -1;
	self->journal = Py_NewRef(journal);
	self->writer = Py_NewRef(writer);
	self->blake3 = Py_NewRef(blake3);
	self->domain = Py_NewRef(domain);
	self->acquire = PyObject_GetAttrString(lock, "acquire");
	self->release = self->acquire ? PyObject_GetAttrString(lock, "release") : NULL;
	return self->release ? 0 : -1;
}

static int appender_visit(const struct appender *self, visitproc visit, void *arg)
{
	Py_VISIT(self->journal);
	Py_VISIT(self->writer);
	Py_VISIT(self->acquire);
	Py_VISIT(self->release);
	Py_VISIT(self->blake3);
	return 0;
}

static void appender_clear(struct appender *self)
{
	Py_CLEAR(self->journal);
	Py_CLEAR(self->writer);
	Py_CLEAR(self->acquire);
	Py_CLEAR(self->release);
	Py_CLEAR(self->blake3);
	Py_CLEAR(self->domain);
}

/* ---- attributes, and the time */

static long long monotonic(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* An attribute that is a number; -1 where it is none, or negative. Nothing is raised: then it is not plain. */
static long long number_of(PyObject *owner, PyObject *name)
{
	PyObject *value = PyObject_GetAttr(owner, name);
	long long number = value ? PyLong_AsLongLong(value) : -1;
	Py_XDECREF(value);
	if (PyErr_Occurred()) {
		PyErr_Clear();
		return -1;
	}
	return number;
}

static bool set_number(PyObject *owner, PyObject *name, long long number)
{
	PyObject *value = PyLong_FromLongLong(number);
	bool done = value && PyObject_SetAttr(owner, name, value) == 0;
	Py_XDECREF(value);
	return done;
}

static bool is(PyObject *owner, PyObject *name, PyObject *what)
{
	PyObject *value = PyObject_GetAttr(owner, name);
	bool same = value == what;
	Py_XDECREF(value);
	PyErr_Clear();
	return same;
}

/* ---- the line */

/* The line's JSON, after room for the hash of the line before. */
static PyObject *body_of(const struct appender *self, PyObject *const parts[PARTS], long long started, const char *head,
			 long long seq)
{
	struct timespec now;
	char numbers[PARTS - 1][NUMBER];
	clock_gettime(CLOCK_REALTIME, &now);
	long long values[PARTS - 1] = {(monotonic() - started) / 1000, seq,
				       now.tv_sec * 1000000LL + now.tv_nsec / 1000};
	Py_ssize_t domain = PyBytes_GET_SIZE(self->domain), size = domain + DIGEST;
	int lengths[PARTS - 1];
	for (int part = 0; part < PARTS; part++) {
		size += PyBytes_GET_SIZE(parts[part]);
		if (part < PARTS - 1)
			size += lengths[part] = snprintf(numbers[part], NUMBER, "%lld", values[part]);
	}
	PyObject *linked = PyBytes_FromStringAndSize(NULL, size);
	if (!linked)
		return NULL;
	char *at = PyBytes_AS_STRING(linked);
	at = mempcpy(at, PyBytes_AS_STRING(self->domain), (size_t)domain);
	at = mempcpy(at, head, DIGEST);
	for (int part = 0; part < PARTS; part++) {
		PyObject *text = parts[part];
		at = mempcpy(at, PyBytes_AS_STRING(text), (size_t)PyBytes_GET_SIZE(text));
		if (part < PARTS - 1)
			at = mempcpy(at, numbers[part], (size_t)lengths[part]);
	}
	return linked;
}

/* `<digest in hex> <JSON>\n`: journal/chain.make_line. */
static PyObject *line_of(PyObject *digest, const char *body, Py_ssize_t size)
{
	static const char digits[] = "0123456789abcdef";
	PyObject *line = PyBytes_FromStringAndSize(NULL, HEX + 1 + size + 1);
	if (!line)
		return NULL;
	char *at = PyBytes_AS_STRING(line);
	for (int index = 0; index < DIGEST; index++) {
		unsigned char byte = (unsigned char)PyBytes_AS_STRING(digest)[index];
		*at++ = digits[byte >> 4];
		*at++ = digits[byte & 15];
	}
	*at++ = ' ';
	at = mempcpy(at, body, (size_t)size);
	*at = '\n';
	return line;
}

static PyObject *digest_of(const struct appender *self, const struct append_names *names, PyObject *linked)
{
	PyObject *hasher = PyObject_CallOneArg(self->blake3, linked);
	PyObject *digest = hasher ? PyObject_CallMethodNoArgs(hasher, names->digest) : NULL;
	Py_XDECREF(hasher);
	if (digest && (!PyBytes_Check(digest) || PyBytes_GET_SIZE(digest) != DIGEST))
		Py_CLEAR(digest);
	return digest;
}

/* Under the journal's lock: writes the record and returns its sequence number; 0 where Python has to do it, or has to find
 * out why it cannot be done. */
static long long append_locked(const struct appender *self, const struct append_names *names, PyObject *const parts[PARTS],
			       long long started, long long *room)
{
	/* Something is wrong, or the journal's thread has to be told that there is a record again. */
	if (!is(self->journal, names->failure, Py_None) || !is(self->journal, names->closing, Py_False) ||
	    !is(self->journal, names->idle, Py_False))
		return 0;
	long long seq = 0, length = number_of(self->writer, names->length), behind = number_of(self->writer, names->behind);
	long long most = number_of(self->writer, names->segment_bytes);
	PyObject *segment = NULL, *head = PyObject_GetAttr(self->writer, names->head);
	PyObject *linked = NULL, *digest = NULL, *line = NULL, *tail = NULL;
	PyObject *sized = NULL, *counted = NULL, *waits = NULL;
	PyObject *segments = PyObject_GetAttr(self->writer, names->segments);
	if (!segments || !PyList_Check(segments) || !PyList_GET_SIZE(segments))
		goto out;
	segment = Py_NewRef(PyList_GET_ITEM(segments, PyList_GET_SIZE(segments) - 1));
	tail = PyObject_GetAttr(segment, names->tail);
	long long size = number_of(segment, names->size), descriptor = number_of(segment, names->descriptor);
	if (!head || !PyBytes_Check(head) || PyBytes_GET_SIZE(head) != DIGEST || !tail || !PyList_Check(tail) ||
	    length < 0 || behind < 0 || size < 0 || descriptor < 0)
		goto out;
	linked = body_of(self, parts, started, PyBytes_AS_STRING(head), length + 1);
	digest = linked ? digest_of(self, names, linked) : NULL;
	if (!digest)
		goto out;
	Py_ssize_t before = PyBytes_GET_SIZE(self->domain) + DIGEST;
	line = line_of(digest, PyBytes_AS_STRING(linked) + before, PyBytes_GET_SIZE(linked) - before);
	if (!line)
		goto out;
	Py_ssize_t bytes = PyBytes_GET_SIZE(line), written;
	/* The next segment, a sync and the sandbox's budget are Python's. */
	if (size + bytes > most || behind + bytes > self->behind || bytes > *room)
		goto out;
	/* Everything that takes memory, before the line is written: half of what follows would break the chain. */
	sized = PyLong_FromLongLong(size + bytes);
	counted = PyLong_FromLongLong(length + 1);
	waits = PyLong_FromLongLong(behind + bytes);
	Py_ssize_t lines = PyList_GET_SIZE(tail);
	if (!sized || !counted || !waits || PyList_Append(tail, line))
		goto out;
	Py_BEGIN_ALLOW_THREADS
	written = pwrite((int)descriptor, PyBytes_AS_STRING(line), (size_t)bytes, size);
	if (written >= 0 && written < bytes && ftruncate((int)descriptor, size))
		written = -1; /* what is left after the good part is written over, or cut by who fails next */
	Py_END_ALLOW_THREADS
	if (written != bytes) {
		PyList_SetSlice(tail, lines, lines + 1, NULL);
		goto out;
	}
	*room -= bytes;
	/* The attributes are there: nothing is made for them. */
	if (PyObject_SetAttr(segment, names->size, sized) == 0 && PyObject_SetAttr(self->writer, names->head, digest) == 0 &&
	    PyObject_SetAttr(self->writer, names->length, counted) == 0 &&
	    PyObject_SetAttr(self->writer, names->behind, waits) == 0)
		seq = length + 1;
out:
	Py_XDECREF(sized);
	Py_XDECREF(counted);
	Py_XDECREF(waits);
	Py_XDECREF(segments);
	Py_XDECREF(segment);
	Py_XDECREF(tail);
	Py_XDECREF(head);
	Py_XDECREF(linked);
	Py_XDECREF(digest);
	Py_XDECREF(line);
	return seq;
}

/* Writes a prepared record of a call that was received at `started`, takes its bytes off `room`, and returns its sequence
 * number. 0 where Python has to do it: another thread has the lock, or anything is not plain. No exception. */
static long long append_prepared(const struct appender *self, const struct append_names *names, PyObject *const parts[PARTS],
				 long long started, long long *room)
{
	PyObject *taken = PyObject_CallOneArg(self->acquire, Py_False);
	long long seq = taken == Py_True ? append_locked(self, names, parts, started, room) : 0;
	PyErr_Clear(); /* whatever it was, Python comes upon it again */
	if (taken == Py_True)
		Py_XDECREF(PyObject_CallNoArgs(self->release));
	Py_XDECREF(taken);
	return seq;
}
