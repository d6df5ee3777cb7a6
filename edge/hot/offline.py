"""What could have been done with knowledge of the future: the measure of every policy that has none."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from edge.hot.policy import Model, Room, in_order

_NEVER = 1e12


class Foreseeing:
    """Belady's rule with costs and sizes: those go first that spare the fewest seconds per byte and second of waiting.

    The best choice for all sizes and costs at once is NP-hard; this is the usual greedy one, which can be reached.
    """

    def __init__(self, requests: Mapping[str, Sequence[float]], *, size: float = 1.0, cost: float = 1.0) -> None:
        """`requests` are the seconds at which each model will be asked for, ascending.

        `size` and `cost` are the powers in which they count: no choice of them is best for every trace.
        """
        self._requests = requests
        self._size, self._cost = size, cost

    def used(self, name: str, now: float) -> None:
        """Known before."""

    def loaded(self, model: Model, now: float) -> None:
        """Known before."""

    def gone(self, name: str) -> None:
        """Known before."""

    def worth(self, model: Model, now: float) -> float:
        """Seconds spared by keeping it until it is asked for, for each byte and each second until then."""
        byte_powers = max(1, model.room.ram + model.room.vram) ** self._size
        return float(model.load_seconds**self._cost / (byte_powers * self._until_next(model.name, now)))

    def victims(self, free: Sequence[Model], needed: Room, now: float) -> tuple[str, ...]:
        going = in_order(sorted(free, key=lambda model: self.worth(model, now)), needed)
        for model in sorted(going, key=lambda each: -self.worth(each, now)):
            others = [each for each in going if each is not model]
            if sum(each.room.ram for each in others) >= needed.ram and (
                sum(each.room.vram for each in others) >= needed.vram
            ):
                going = others
        return tuple(model.name for model in going)

    def pays(self, coming: Model, victims: Sequence[Model], now: float) -> bool:
        return self.worth(coming, now) > max((self.worth(victim, now) for victim in victims), default=0.0)

    def _until_next(self, name: str, now: float) -> float:
        times = self._requests.get(name, ())
        place = bisect_right(times, now)
        return max(1e-3, times[place] - now) if place < len(times) else _NEVER


def least_seconds(
    requests: Sequence[tuple[float, str]], sizes: Mapping[str, int], costs: Mapping[str, float], budget: int
) -> float:
    """Seconds of loading that no policy can avoid on this trace: a lower bound, which nobody may be able to reach.

    Every model is loaded once. Beyond that, keeping a model from one request to the next takes its bytes for that time,
    and all that is kept takes at most `budget` x the time of the trace. The cheapest intervals are kept, the last one in
    part: the relaxation of Berger, Beckmann and Harchol-Balter (PFOO-L, 2018). Time is counted in requests.
    """
    last: dict[str, int] = {}
    intervals: list[tuple[float, float, float]] = []
    seconds = 0.0
    for place, (_, name) in enumerate(requests):
        seconds += costs[name]
        if name in last:
            space = float(sizes[name] * (place - last[name]))
            intervals.append((costs[name] / space, space, costs[name]))
        last[name] = place
    space_left = float(budget * len(requests))
    for _, space, cost in sorted(intervals, reverse=True):
        kept = min(1.0, space_left / space)
        seconds -= kept * cost
        space_left -= kept * space
        if space_left <= 0:
            break
    return seconds
