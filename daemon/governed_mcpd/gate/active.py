"""The active policy set, compiled: immutable, and replaced as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from governed_mcpd.gate.decide import Layer, Layers
from governed_mcpd.gate.layers.constitution import ConstitutionError, ConstitutionLayer
from governed_mcpd.gate.layers.constitution import check as check_constitution
from governed_mcpd.gate.layers.prefilter import PrefilterLayer
from governed_mcpd.gate.layers.probe import ProbeLayer
from governed_mcpd.gate.layers.rate import Buckets, RateLayer
from governed_mcpd.gate.layers.schema import SchemaError, SchemaLayer
from governed_mcpd.gate.layers.tier import TierLayer
from governed_mcpd.gate.probe.logits import Probe
from governed_mcpd.gate.probe.servers import Servers
from governed_mcpd.policy.load import PolicyError, PolicySet, parse

if TYPE_CHECKING:
    from governed_mcpd.gate.remote.balancer import Balancer


class ActivationError(ValueError):
    """A policy set that cannot be used; the text has every problem, one per line."""


@dataclass(frozen=True, slots=True)
class Active:
    """One policy set and its layers; `probe` is what the fifth of them asks, None where remote gates do."""

    version: str
    shadow: bool
    layers: Layers
    backend: str
    probe: Probe | None

    @property
    def model(self) -> str:
        """Which model answers here."""
        return "" if self.probe is None else self.probe.model

    @property
    def trouble(self) -> str:
        """Why every answer would be a refusal; empty when it would not."""
        return "" if self.probe is None else self.probe.trouble


@dataclass(frozen=True, slots=True)
class Room:
    """What outlives a policy set: the embedded model and its bias, the rate buckets, where this instance keeps its
    files, and what was measured of models on servers."""

    probe: Probe
    bias: float
    buckets: Buckets
    own_directories: tuple[str, ...] = ()
    servers: Servers = field(default_factory=Servers)
    balancer: "Balancer | None" = None  # remote gates decide layers 4 and 5


def activate(files: Mapping[str, bytes], room: Room) -> Active:
    """Parses and compiles `files`, all or nothing. Raises ActivationError."""
    try:
        policy = parse(files, check_constitution=check_constitution)
    except PolicyError as error:
        raise ActivationError(str(error)) from None
    return compile_set(policy, room)


def compile_set(policy: PolicySet, room: Room) -> Active:
    """The layers for `policy`. Raises ActivationError."""
    gate = policy.gate
    try:
        constitution = ConstitutionLayer(policy.constitutions, room.own_directories)
        schema = SchemaLayer(policy.tools)
    except (SchemaError, ConstitutionError) as error:
        raise ActivationError(str(error)) from None
    prefilter: Layer
    probe: Layer
    if room.balancer is not None:
        from governed_mcpd.gate.remote.layers import RemoteLayers  # noqa: PLC0415 - slow to import, and seldom used

        remote = RemoteLayers(room.balancer, policy)
        asked, prefilter, probe = None, remote.prefilter, remote.probe
    else:
        asked = room.probe if gate.vllm is None else room.servers.probe(gate.vllm, constitution.principles)
        prefilter, probe = PrefilterLayer(), ProbeLayer(asked, room.bias, gate)
    layers = Layers(
        schema=schema,
        tier=TierLayer(policy.agents, policy.tools, gate),
        rate=RateLayer(policy.tools, gate, room.buckets),
        prefilter=prefilter,
        probe=probe,
        constitution=constitution,
    )
    return Active(policy.version, gate.mode == "shadow", layers, "remote" if asked is None else gate.backend, asked)
