"""The head on frozen features, by the run key ``head``. A new kind is a file of its own and a line in `get_head`."""

from common.models.heads.base import Head, HeadKind
from common.models.heads.linear_probe import LinearProbe
from common.models.heads.mean import ClassMean
from common.models.heads.ridge import Ridge

__all__ = ["Head", "HeadKind", "get_head"]


def get_head(name: str, epochs: int = 300, learning_rate: float = 0.03) -> HeadKind:
    """The kind of head with that name.

    Parameters
    ----------
    name
        ``linear-probe``, ``ridge`` or ``mean``.
    epochs, learning_rate
        Of ``linear-probe``, on clients.

    Raises
    ------
    KeyError
        If there is no such kind; the config has made sure of it.
    """
    kinds: dict[str, HeadKind] = {
        kind.name: kind for kind in (LinearProbe(epochs, learning_rate), Ridge(), ClassMean())
    }
    return kinds[name]
