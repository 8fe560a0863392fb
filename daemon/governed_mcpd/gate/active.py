"""The active policy set, compiled: immutable, and replaced as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass

from governed_mcpd.gate.decide import Layers
from governed_mcpd.gate.layers.constitution import ConstitutionError, ConstitutionLayer
from governed_mcpd.gate.layers.constitution import check as check_constitution
from governed_mcpd.gate.layers.prefilter import PrefilterLayer
from governed_mcpd.gate.layers.probe import ProbeLayer
from governed_mcpd.gate.layers.rate import Buckets, RateLayer
from governed_mcpd.gate.layers.schema import SchemaError, SchemaLayer
from governed_mcpd.gate.layers.tier import TierLayer
from governed_mcpd.gate.probe.logits import Probe
from governed_mcpd.gate.remote.balancer import Balancer
from governed_mcpd.gate.remote.layers import RemoteLayers
from governed_mcpd.policy.load import PolicyError, PolicySet, parse


class ActivationError(ValueError):
    """A policy set that cannot be used; the text has every problem, one per line."""


@dataclass(frozen=True, slots=True)
class Active:
    """One policy set and its layers."""

    version: str
    shadow: bool
    layers: Layers


@dataclass(frozen=True, slots=True)
class Room:
    """What outlives a policy set: the model and its bias, the rate buckets, where this instance keeps its files."""

    probe: Probe
    bias: float
    buckets: Buckets
    own_directories: tuple[str, ...] = ()
    balancer: Balancer | None = None  # remote gates decide layers 4 and 5


def activate(files: Mapping[str, bytes], room: Room) -> Active:
    """Parses and compiles `files`, all or nothing. Raises ActivationError."""
    try:
        policy = parse(files, check_constitution=check_constitution)
    except PolicyError as error:
        raise ActivationError(str(error)) from None
    return compile_set(policy, room)


def compile_set(policy: PolicySet, room: Room) -> Active:
    """The layers for `policy`. Raises ActivationError."""
    remote = RemoteLayers(room.balancer, policy) if room.balancer is not None else None
    try:
        layers = Layers(
            schema=SchemaLayer(policy.tools),
            tier=TierLayer(policy.agents, policy.tools, policy.gate),
            rate=RateLayer(policy.tools, policy.gate, room.buckets),
            prefilter=remote.prefilter if remote else PrefilterLayer(),
            probe=remote.probe if remote else ProbeLayer(room.probe, room.bias, policy.gate),
            constitution=ConstitutionLayer(policy.constitutions, room.own_directories),
        )
    except (SchemaError, ConstitutionError) as error:
        raise ActivationError(str(error)) from None
    return Active(policy.version, policy.gate.mode == "shadow", layers)
