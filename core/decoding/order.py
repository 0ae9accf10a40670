"""When each step of a program may begin, from the buffers that it reads and writes."""

from collections.abc import Collection, Mapping

from lab.core.decoding.instructions import Order

# the tasks a row that a step's threads share, 0: channels of outputs; by the addresses of buffers
Sharing = dict[int, set[int]]


class OrderOfSteps:
    """Finds out which of the steps before it a step needs: all, none, or the same task of those right before it."""

    def __init__(self) -> None:
        # since the last meeting; the chains of joined steps that have to do with each buffer, by number
        self._read: Sharing = {}
        self._written: Sharing = {}
        self._chains: dict[int, set[int]] = {}
        self._chain = 0

    def of(self, read: Collection[int], written: Collection[int], tasks: int) -> Order:
        """The order of the next step.

        Args:
            read: addresses of the buffers that it reads.
            written: of those that it writes, or reads and writes.
            tasks: a row, that its threads share; 0: they share the channels of its outputs.
        """
        order = self._found(read, written, tasks)
        if order is Order.meeting:
            self._read, self._written, self._chains = {}, {}, {}
        if order is not Order.joined:
            self._chain += 1
        for sharing, addresses in ((self._read, read), (self._written, written)):
            for address in addresses:
                sharing.setdefault(address, set()).add(tasks)
                self._chains.setdefault(address, set()).add(self._chain)
        return order

    def _found(self, read: Collection[int], written: Collection[int], tasks: int) -> Order:
        if _is_elsewhere(self._written, [*read, *written], tasks) or _is_elsewhere(self._read, written, tasks):
            return Order.meeting
        needed = {*self._written.keys() & {*read, *written}, *self._read.keys() & set(written)}
        if not needed:
            return Order.any_time
        # each task needs the same one of earlier steps: of the last one, and those that are joined to each other
        return Order.joined if all(self._chains[address] == {self._chain} for address in needed) else Order.meeting


def _is_elsewhere(there: Mapping[int, set[int]], here: Collection[int], tasks: int) -> bool:
    """Whether another thread may have to do with one of these buffers."""
    return any(there.get(address, {tasks}) != {tasks} or (not tasks and address in there) for address in here)
