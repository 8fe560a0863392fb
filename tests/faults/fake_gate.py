"""A gate that misbehaves, for tests: `python fake_gate.py SOCKET MODE`. Speaks gRPC, is right about nothing.

It agrees to every policy set, so that only its verdicts are wrong. Prints a line once it listens.
"""

import sys
import time
from concurrent import futures

import grpc

from governed.v1 import gate_pb2 as pb
from governed.v1 import nouns_pb2 as nouns

DECIDE, ACTIVATE, DESCRIBE = "Decide", "Activate", "Describe"


def verdict(mode: str, request: pb.DecideRequest) -> bytes:
    """The bytes of an answer that is wrong in the way that `mode` says; `right` is the neighbour that is not."""
    answer = nouns.Verdict(
        decision=nouns.DECISION_ALLOW,
        layer="constitution",
        rule="fake",
        reason="as the test has it",
        policy_version=request.policy_version,
    )
    lease = nouns.Lease(
        operations=["file.create"],
        pattern=nouns.Pattern(kind=nouns.Pattern.KIND_UNDER, text=b"/"),
        uses=10,
        seconds=60,
        policy_version=request.policy_version,
    )
    if mode == "garbage":
        return b"\xff\xff\xff\xff not a verdict"
    if mode == "empty":
        return b""
    if mode == "huge":
        answer.reason = "x" * (5 * 1024 * 1024)
    elif mode == "other-policy":
        answer.policy_version = "0" * 64
    elif mode == "no-decision":
        answer.decision = nouns.DECISION_UNSPECIFIED
    elif mode == "decision-of-the-future":
        answer.decision = 77  # type: ignore[assignment]
    elif mode == "no-rule":
        answer.rule = ""
    elif mode == "probability":
        answer.dangerous_ppm = 1_000_001
    elif mode == "lease-uses":
        lease.uses = 4_000_000_000
        answer.lease.CopyFrom(lease)
    elif mode == "lease-seconds":
        lease.seconds = 0
        answer.lease.CopyFrom(lease)
    elif mode == "lease-operation":
        lease.operations[:] = ["file.anything"]
        answer.lease.CopyFrom(lease)
    elif mode == "lease-pattern":
        lease.pattern.kind = nouns.Pattern.KIND_UNSPECIFIED
        answer.lease.CopyFrom(lease)
    elif mode == "lease-on-refusal":
        answer.decision = nouns.DECISION_DENY
        answer.lease.CopyFrom(lease)
    elif mode in ("wide-lease", "other-lease"):
        lease.policy_version = request.policy_version if mode == "wide-lease" else "0" * 64
        answer.lease.CopyFrom(lease)
    elif mode == "error":
        raise RuntimeError("this gate fails")
    elif mode == "late":
        time.sleep(30)
    else:
        assert mode == "right", mode
    return answer.SerializeToString()


def main(socket: str, mode: str) -> None:
    version = [""]
    asked = [0]

    def decide(request: pb.DecideRequest, context: grpc.ServicerContext) -> bytes:
        asked[0] += 1
        print(f"decide {asked[0]}", flush=True)
        if mode == "always-other":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "another policy set, now and for ever")
        return verdict(mode, request)

    def state() -> bytes:
        return pb.GateState(policy_version=version[0], backend="fake", serving=True).SerializeToString()

    def activate(request: nouns.PolicySet, _: grpc.ServicerContext) -> bytes:
        version[0] = request.version
        return state()

    def unary(function: object, kind: object) -> object:
        return grpc.unary_unary_rpc_method_handler(function, request_deserializer=kind.FromString)

    handlers = {
        DECIDE: unary(decide, pb.DecideRequest),
        ACTIVATE: unary(activate, nouns.PolicySet),
        DESCRIBE: unary(lambda _request, _context: state(), pb.DescribeRequest),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("governed.v1.Gate", handlers),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
