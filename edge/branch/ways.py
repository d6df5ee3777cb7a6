"""What is known when a request comes, gathered for `edge.route.decide`."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from deltaic.names import RevisionName
from deltaic.v1 import inference_pb2
from edge.branch.breakers import Breakers
from edge.branch.expected import Expected, Place, Work, embedding_work, expected, work_of
from edge.branch.hops import passed_on
from edge.branch.lines import Lines
from edge.branch.neighbours import Neighbours
from edge.errors import NotHeldHere
from edge.index.entries import Neighbour, RevisionEntry
from edge.index.secret import BLOCK, IndexSecret, known_blocks
from edge.route import Refuse, Situation, Target, Timed, ToNeighbour, Way, decide

_LONG_PROMPT_BLOCKS = 8
_USUAL_LOAD_SECONDS = 3.0

Request = inference_pb2.GenerateRequest | inference_pb2.EmbedRequest

CENTER = "center"
"""Its place among the breakers, whose others are addresses."""


@dataclass(frozen=True, slots=True)
class Here:
    """What this edge knows of itself: `load_seconds` is what loading a revision from disk is expected to take."""

    loaded: Callable[[str], bool]
    held: Callable[[Target], RevisionName | None]
    coming: Callable[[Target], str | None]
    shown: Callable[[RevisionName], RevisionEntry]
    load_seconds: Callable[[RevisionName], float]


@dataclass(frozen=True, slots=True)
class Policy:
    """`no_escalation` are tenants whose requests do not leave the branch."""

    no_escalation: Collection[str] = field(default=frozenset())


class Ways:
    """Gathers, and decides. Nothing here is kept."""

    def __init__(
        self,
        here: Here,
        neighbours: Neighbours,
        line_up: Callable[[], bool],
        breakers: Breakers,
        lines: Lines,
        policy: Policy,
        secret: IndexSecret,
        clock: Callable[[], float],
    ) -> None:
        """`clock` is that of the breakers."""
        self._here = here
        self._neighbours = neighbours
        self._line_up = line_up
        self._breakers = breakers
        self._lines = lines
        self._policy = policy
        self._secret = secret
        self._clock = clock

    async def of(self, target: Target, request: Request, seconds: float) -> tuple[Timed, ...]:
        """The ways to answer within `seconds`, the best first; raises why there is none.

        Asks the index at most once, and not at all for what is loaded and idle here.
        """
        digests, work = self._asked(request)
        forwarded = passed_on()
        revision = self._here.held(target)
        own = self._here.shown(revision) if revision is not None else RevisionEntry()
        loaded = self._here.loaded(str(target))
        neighbours: list[Timed] = []
        if not forwarded and not (loaded and _is_enough(own, digests)):
            neighbours = await self._timed_neighbours(target, revision, own, digests, work)
        decision = decide(
            target,
            request.sensitivity,
            loaded=self._here.loaded,
            held=self._here.held,
            coming=self._here.coming,
            situation=Situation(
                line_up=self._line_up() and self._breakers.allows(CENTER, self._clock()),
                here=self._expected_here(revision, own, digests, work),
                neighbours=neighbours,
                seconds=seconds,
                may_escalate=request.tenant not in self._policy.no_escalation,
                forwarded=forwarded,
            ),
        )
        if isinstance(decision, Refuse):
            raise decision.error
        return decision

    def here(self, target: Target) -> Way:
        """How this edge itself answers, whatever the label: nothing is passed on. Raises NotHeldHere."""
        here, public = self._here, inference_pb2.SENSITIVITY_PUBLIC
        alone = Situation(line_up=False, forwarded=True)
        found = decide(target, public, loaded=here.loaded, held=here.held, coming=here.coming, situation=alone)
        if isinstance(found, Refuse):
            raise NotHeldHere(f"{target} is not served by this edge", hint="`deltaic models` lists what is")
        return found[0].way

    def _asked(self, request: Request) -> tuple[tuple[str, ...], Work]:
        """Digests of the prompt's beginnings, and the work that the request is."""
        if isinstance(request, inference_pb2.EmbedRequest):
            return (), embedding_work(request)
        return self._secret.prefixes(request), work_of(request)

    def _expected_here(
        self, revision: RevisionName | None, own: RevisionEntry, digests: tuple[str, ...], work: Work
    ) -> Expected:
        load = self._here.load_seconds(revision) if revision is not None and not own.keys else 0.0
        cached = BLOCK * known_blocks(digests, frozenset(own.prefixes)) if digests else 0
        place = Place(load, own.running, own.waiting, own.slots, own.seconds_per_token, cached)
        return expected(place, work)

    async def _timed_neighbours(
        self,
        target: Target,
        revision: RevisionName | None,
        own: RevisionEntry,
        digests: tuple[str, ...],
        work: Work,
    ) -> list[Timed]:
        """Those that may be asked, each with what is expected of it.

        What is held here is what a caller gets, whoever answers: a neighbour that is at another revision is none.
        """
        now = self._clock()
        return [
            Timed(_way(each, target, revision), self._expected_there(each, revision, own, digests, work))
            for each in await self._neighbours.of(target)
            if revision in (None, each.revision) and self._breakers.allows(each.address, now)
        ]

    def _expected_there(
        self,
        neighbour: Neighbour,
        held_here: RevisionName | None,
        own: RevisionEntry,
        digests: tuple[str, ...],
        work: Work,
    ) -> Expected:
        """Whose load is not known (the index is gone) is thought to be as busy as this edge: else it drew all work."""
        load = 0.0
        if not neighbour.loaded:
            load = self._here.load_seconds(held_here) if held_here is not None else _USUAL_LOAD_SECONDS
        busy = neighbour if neighbour.slots or not neighbour.loaded else own
        place = Place(
            load,
            busy.running,
            busy.waiting,
            busy.slots,
            busy.seconds_per_token,
            BLOCK * known_blocks(digests, neighbour.prefixes) if digests else 0,
            self._lines.round_trip(neighbour.address),
        )
        return expected(place, work)


def _way(neighbour: Neighbour, target: Target, held_here: RevisionName | None) -> ToNeighbour:
    """What is held here is asked for by its digest; else the neighbour resolves the name as it would for its own."""
    model = str(held_here or target)
    return ToNeighbour(neighbour.node, neighbour.address, model, loaded=neighbour.loaded)


def _is_enough(own: RevisionEntry, digests: tuple[str, ...]) -> bool:
    """Whether this edge is as good as any: it has a free slot, and little of the prompt to read for the first time."""
    unread = len(digests) - known_blocks(digests, frozenset(own.prefixes)) if digests else 0
    return own.running < max(own.slots, 1) and not own.waiting and unread < _LONG_PROMPT_BLOCKS
