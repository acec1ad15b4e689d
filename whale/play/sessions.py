"""The sessions that a server keeps, each with its address, and what is done in them, one thing after the other.

All model work runs in one worker thread, so the page stays responsive; a policy thinks in a thread of its own, so that
one that hangs holds up nobody else's session. What changes a session waits for what changed it before.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from whale.errors import UserError
from whale.play.catalogue import Catalogue
from whale.play.session import Session
from whale.policy import GuardedPolicy, load_policy

VERBS = ("step", "follow", "policy", "rewind", "episode", "model")


class GoneError(Exception):
    """A session, or a frame of it, that is not here."""


class Visit:
    """A session with its address, the lock that orders its changes, and how many watch it."""

    def __init__(self, session: Session):
        self.id, self.session, self.lock = secrets.token_urlsafe(9), session, asyncio.Lock()
        self.viewers = 0
        self.policies: dict[str, GuardedPolicy] = {}


class Sessions:
    """What is driven at present; every method runs on the event loop."""

    def __init__(self, catalogue: Catalogue):
        self.catalogue, self.config = catalogue, catalogue.config
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._visits: OrderedDict[str, Visit] = OrderedDict()

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run model work in the worker thread."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, *arguments)

    async def open(self, episode: int, model: str) -> Visit:
        """A new session; beyond the limit the one not used for longest goes."""
        visit = Visit(await self.work(Session, self.catalogue, episode, model))
        self._visits[visit.id] = visit
        while len(self._visits) > self.config.max_sessions:
            self._visits.popitem(last=False)
        return visit

    def find(self, address: str) -> Visit:
        """The session with this address, which is thereby used.

        Raises:
            GoneError: there is none, or none any more.
        """
        if address not in self._visits:
            raise GoneError
        self._visits.move_to_end(address)
        return self._visits[address]

    async def act(self, visit: Visit, verb: str, body: dict[str, Any]) -> None:
        """Do one thing in a session.

        Raises:
            UserError: the body lacks what the verb needs, or see `Session`.
        """
        session = visit.session
        async with visit.lock:
            if verb == "step":
                await self.work(session.step, entry(body, "action", list))
            elif verb == "follow":
                await self.work(session.follow)
            elif verb == "policy":
                await self._drive(visit, entry(body, "policy", str))
            elif verb == "rewind":
                await self.work(session.rewind, entry(body, "step", int))
                visit.policies.clear()
            elif verb == "episode":
                await self.work(session.choose_episode, entry(body, "episode", int))
                visit.policies.clear()
            elif verb == "model":
                await self.work(session.choose_model, entry(body, "model", str))
            else:
                raise UserError(f"there is nothing called {verb!r} to do", f"choose one of {', '.join(VERBS)}")

    async def _drive(self, visit: Visit, name: str) -> None:
        """One step with a policy at the wheel; one that went wrong is built anew the next time."""
        session, specs = visit.session, self.config.policies
        if name not in specs:
            raise UserError(f"there is no policy {name!r}", f"the configuration's `policies` names {list(specs)}")
        policy = visit.policies.pop(name, None)
        if policy is None:
            size = self.catalogue.models[session.model].config.tokenizer.image_px
            made = await asyncio.to_thread(load_policy, specs[name], [session.episode], size)
            policy = GuardedPolicy(made, name, self.config.policy_timeout_sec)
        action = (await asyncio.to_thread(policy.act, session.frame(session.model, len(session.actions))[None]))[0]
        await self.work(session.step, action, name)
        visit.policies[name] = policy


def entry(body: dict[str, Any], name: str, kind: type) -> Any:
    """An entry of a request, of the kind that it has to be.

    Raises:
        UserError: it is missing, or of another kind.
    """
    value = body.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"the request's {name!r} is {value!r:.60}", f"give a {kind.__name__}")
    return value
