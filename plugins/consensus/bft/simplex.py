"""Ordering within one epoch, by Simplex (CONS-30..37, 42..45, 55, 60, 63), as a machine without I/O.

How it works
    A view has one leader. Its block is notarised by a quorum of notarize votes; whoever holds the
    notarisation enters the next view and, unless it said nullify, says finalize; a quorum of finalize
    makes the block and its ancestors final. Who waits too long says nullify; a quorum of nullify moves on
    without a block. A validator never says both finalize and nullify of a view, and notarize only once,
    for a block whose parent is notarised with every view between nullified.

How it is kept
    `step` takes an event, changes what is known (`_on_...`), and ends in `_settle`, which does whatever
    the new knowledge allows: vote, propose, start timers, ask for what is missed. Nothing is decided
    elsewhere, so an event that comes late or twice does what it would have done in time.
    Each own statement is decided once: it is set in its `View`, goes to the log, and its message waits for
    the log (`Send.after`). It counts as a vote here only once it is durable, so no certificate that
    leaves this node holds a vote that a crash could undo.
"""

from collections.abc import Callable, Iterable

from supervm.plugins.consensus.bft.branches import Branch, ForksFinal, Node, Unlinked, node_of
from supervm.plugins.consensus.bft.clock_lag import ClockLag
from supervm.plugins.consensus.bft.events import (
    ALL,
    CancelTimer,
    EpochEnded,
    Event,
    ExecutedBlock,
    Halt,
    InView,
    Logged,
    Now,
    Offended,
    Output,
    Received,
    Record,
    Refused,
    Send,
    SetTimer,
    Stream,
    TimedOut,
    Work,
)
from supervm.plugins.consensus.bft.fetching import VIEWS_MAX, GotBlock, Want, WantDigest, What
from supervm.plugins.consensus.bft.finality import Finality
from supervm.plugins.consensus.bft.leaders import Leaders
from supervm.plugins.consensus.bft.leading import Leading, Pool
from supervm.plugins.consensus.bft.pacing import Pacing, Silence
from supervm.plugins.consensus.bft.peers import Peers
from supervm.plugins.consensus.bft.proposals import Broken, Waits, judge
from supervm.plugins.consensus.bft.rebuilding import epoch_of, put_back, records_of
from supervm.plugins.consensus.bft.records import Entered, Finalized, Notarized, Nullified, Proposed
from supervm.plugins.consensus.bft.roots import Roots
from supervm.plugins.consensus.bft.starting import Settings, Start
from supervm.plugins.consensus.bft.statements import Statements
from supervm.plugins.consensus.bft.views import View, Views, is_of_quorum, weight_of
from supervm.plugins.consensus.bft.votes import Proposal, ViewVote
from supervm.types.block import Block
from supervm.types.certificate import Certificate, VoteKind
from supervm.types.digests import Digest
from supervm.types.errors import InvalidInput, ProofInvalid

__all__ = ["ADVANCE", "AGAIN", "EMPTY", "INTERVAL", "LEADER", "Ordering", "Settings", "Start"]

LEADER, ADVANCE, AGAIN, EMPTY, INTERVAL = "leader", "advance", "again", "empty", "interval"


class Ordering:
    """One validator's part in ordering one epoch. Not thread-safe; `step` never awaits and never raises
    for what others sent."""

    def __init__(
        self, start: Start, sign: Callable[[bytes], bytes], pool: Pool, settings: Settings | None = None
    ) -> None:
        self.epoch = start.epoch
        self.own = start.own
        self.settings = settings or Settings()
        self._say_as = Statements(start.epoch.chain_id, start.epoch.number, start.own, sign)
        self._members = start.epoch.validators.members
        self._leaders = Leaders(start.epoch.validators, start.epoch.chain_id, start.epoch.number)
        self._pacing = Pacing()
        self._silence = Silence(len(self._members))
        self.clock_lag = ClockLag(start.epoch.validators)
        self._finality = Finality(start)
        self._views = Views(start.tip_view)
        self._leading = Leading(start.epoch, start.own, pool, self._say_as, self._views, self._finality)
        self._entry: Certificate | None = None
        self.view = start.tip_view + 1
        self.halted = ""
        # Of the current view.
        self._active = False
        self._is_due = False
        self._timers: set[str] = set()
        self._heard: set[int] = set()
        self._entered_us = 0
        self._last_vote_us = 0
        self._unfinal_is_work = False
        self.last_proposal_us: int | None = None
        """When the last proposal of any view came, by the monotonic clock."""
        self._peers = Peers(start.epoch, start.own, self._pacing)
        self._now = Now(0, 0)
        self._out: list[Output] = []

    # What others may ask.

    @property
    def ended(self) -> Certificate | None:
        """The finalisation of the epoch's last block, once it is final."""
        return self._finality.ended

    @property
    def roots(self) -> Roots:
        return self._finality.roots

    @property
    def final_height(self) -> int:
        return self._finality.branches.tip.height

    @property
    def final_view(self) -> int:
        return self._finality.view

    @property
    def delay_us(self) -> int:
        """D of this moment."""
        return self._pacing.delay_us

    def certificates(self, first: int, last: int) -> list[Certificate]:
        """Certificates of these views that are held, in their order: the answer to `WantViews`."""
        numbers = range(first, min(last, first + VIEWS_MAX - 1) + 1)
        views = (view for number in numbers if (view := self._views.get(number)) is not None)
        return [certificate for view in views for certificate in view.certificates()][:VIEWS_MAX]

    def block(self, digest: Digest) -> Block | None:
        """A block above the last final one, if it is held."""
        node = self._finality.branches.get(digest)
        return None if node is None else node.block

    # Events.

    def step(self, event: Event, now: Now) -> list[Output]:
        self._now = now
        self._out = []
        if not self.halted:
            match event:
                case Received(peer, message):
                    self._on_message(peer, message)
                case TimedOut(name):
                    self._on_timer(name)
                case Logged(number):
                    self._on_logged(number)
                case ExecutedBlock():
                    self._on_executed(event)
                case _:
                    assert isinstance(event, Work), f"ordering isn't told {event!r}"
            self._settle()
        out, self._out = self._out, []
        return out

    def start(self, records: Iterable[Record], now: Now) -> list[Output]:
        """Begin, or begin again from the log's records: send again every vote above the last final view.

        What storage holds already is skipped, and what is of another epoch. Records are durable, so nothing
        of them is logged again.
        """
        self._now = now
        self._out = []
        if self.ended is not None:
            return []
        for record in records:
            self._replay(record)
        for certificate in self._views.certificates():
            self._moves_on(certificate)
            if certificate.kind == VoteKind.FINALIZE and certificate.view > self.final_view:
                self._finality.wait(certificate)
        if self._entry is not None:
            # First: what is said of a view comes after how the one before it ended.
            self._send(ALL, self._entry)
        for view in self._views.values():
            if view.number > self.final_view:
                self._repeat(view)
        self._begin_view()
        self._complete_own()
        self._settle()
        out, self._out = self._out, []
        return out

    def _complete_own(self) -> None:
        """Certificates that own votes alone make: nobody else sends again what would make them."""
        for view in self._views.values():
            for vote in view.own_votes():
                if view.number <= self.final_view or view.certificate(vote.kind) is not None:
                    continue
                certificate = view.assemble(vote.kind, vote.digest, self.epoch.validators)
                if certificate is not None:
                    self._learn(view, certificate)

    def _replay(self, record: Record) -> None:
        if epoch_of(record) == self.epoch.number:
            put_back(record, self._views, self._finality.branches)

    def records(self) -> list[Record]:
        """The fewest records that this machine is rebuilt from: what a log may be shortened to."""
        return records_of(self._views, self._finality.branches)

    # Messages.

    def _on_message(self, peer: bytes, message: object) -> None:
        match message:
            case ViewVote():
                self._on_vote(peer, message)
            case Certificate():
                self._on_certificate(message)
            case Proposal():
                self._on_proposal(peer, message)
            case GotBlock(block):
                self._on_block(block)

    def _on_vote(self, peer: bytes, vote: ViewVote) -> None:
        if vote.epoch != self.epoch.number:
            self._out += self._peers.of_other_epoch(peer, vote, self._now.monotonic_us)
            return
        if vote.validator >= len(self._members) or vote.view < 1:
            return
        self._silence.heard(vote.validator)
        if self._finality.covers(vote.view):
            self._answer(peer, vote.view)
            return
        if vote.view < self.view:
            self._answer(peer, vote.view)
        elif vote.view > self.view + self.settings.views_ahead_max:
            self._out += self._peers.ahead(vote, self._now.monotonic_us)
            return
        elif vote.view == self.view:
            self._heard.add(vote.validator)
        self._count(vote)

    def _count(self, vote: ViewVote) -> None:
        view = self._views.at(vote.view)
        evidence = view.contradiction(vote)
        if evidence is not None:
            self._out.append(Offended(evidence))
        if not view.add(vote):
            return
        if vote.view == self.view:
            self._last_vote_us = self._now.monotonic_us
        if view.certificate(vote.kind) is None:
            certificate = view.assemble(vote.kind, vote.digest, self.epoch.validators)
            if certificate is not None:
                self._learn(view, certificate)

    def _answer(self, peer: bytes, view: int) -> None:
        """Help a validator that votes in an older view: where this one is, and what is final (CONS-34)."""
        final = self._finality.proof(view)
        known = [each for each in (self._entry, final) if each is not None]
        self._out += self._peers.tell(peer, known, self._now.monotonic_us)

    def _on_certificate(self, certificate: Certificate) -> None:
        if certificate.epoch != self.epoch.number or certificate.view < 1 or self.ended is not None:
            return
        if certificate.kind not in (VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE):
            return
        if not self._views.may_learn(certificate) or not is_of_quorum(certificate, self.epoch.validators):
            return
        self._learn(self._views.at(certificate.view), certificate)

    def _learn(self, view: View, certificate: Certificate) -> None:
        """A certificate that was lacked: pass it on, say finalize, move on, make final (CONS-33, 35)."""
        contradicted = view.impossible_with(certificate)
        if contradicted:
            self._halt(contradicted)
            return
        self._views.keep(view, certificate)
        logged_with_vote = False
        if certificate.kind == VoteKind.NOTARIZE:
            self._quorum_came(view)
            logged_with_vote = self._finalize(view, certificate)
        if view.number > self.final_view:
            self._pass_on(certificate)
        if certificate.kind == VoteKind.FINALIZE:
            self._pacing.finalised()
            self._finality.wait(certificate)
            self._make_final()
        if not self._is_over() and view.number >= self.view:
            if certificate.kind == VoteKind.NULLIFY:
                self._pacing.nullified()
            if not logged_with_vote:
                self._log(Entered(certificate))
            self._leave_view()
            self._moves_on(certificate)
            self._begin_view()

    def _pass_on(self, certificate: Certificate) -> None:
        self._send(ALL, certificate)
        self._peers.told_all(self._now.monotonic_us)

    def _quorum_came(self, view: View) -> None:
        if view.proposal is not None and view.number == self.view:
            since = max(view.proposal_at_us, self._entered_us)
            self._pacing.quorum_came(self._now.monotonic_us - since)

    # Views.

    def leader_of(self, view: int) -> int:
        return self._leaders.of(view)

    @property
    def proposals_upto(self) -> int:
        """The last view of which a proposal is kept."""
        return self.view + self.settings.proposals_ahead_max

    def leader_named(self, view: int) -> int:
        """As `leader_of`, of a view that somebody else named. Raises `ProofInvalid` for one that is none, or
        of which a proposal isn't kept: reckoning leaders takes a step a view."""
        if not 1 <= view <= self.proposals_upto:
            mend = f"from 1 to {self.proposals_upto}"
            raise ProofInvalid("ViewOutOfRange", "a proposal of a view that is far away", view, mend)
        return self._leaders.of(view)

    def _leave_view(self) -> None:
        leader = self.leader_of(self.view)
        heard_quorum = self.epoch.validators.is_quorum(weight_of(self.epoch.validators, self._heard))
        self._silence.left_view(leader, leader in self._heard, heard_quorum)

    def _moves_on(self, certificate: Certificate) -> None:
        if certificate.view >= self.view:
            self.view = certificate.view + 1
            self._entry = certificate

    def _begin_view(self) -> None:
        for name in sorted(self._timers):
            self._out.append(CancelTimer(name))
        self._timers.clear()
        self._active = self._is_due = False
        self._unfinal_is_work = False
        self._last_vote_us = self._entered_us = self._now.monotonic_us
        view = self._views.at(self.view)
        self._heard = view.voters()
        if view.proposal is not None:
            self._heard.add(self.leader_of(self.view))
        self._peers.entered(self.view)
        self._set(EMPTY, self.settings.interval_max_us)
        members = self._members
        leader, after = self.leader_of(self.view), self.leader_of(self.view + 1)
        self._out.append(
            InView(self.epoch.number, self.view, members[leader].node_id, members[after].node_id)
        )

    # Proposals.

    def _on_proposal(self, peer: bytes, proposal: Proposal) -> None:
        if proposal.epoch != self.epoch.number or proposal.view < 1:
            return
        if self._finality.covers(proposal.view) or proposal.view < self.view:
            self._answer(peer, proposal.view)
            return
        if proposal.view > self.proposals_upto:
            return
        leader = self.leader_of(proposal.view)
        self._silence.heard(leader)
        view = self._views.at(proposal.view)
        if proposal.view == self.view:
            self._heard.add(leader)
        digest = proposal.block.digest()
        if view.proposal is not None:
            evidence = view.second_proposal(leader, proposal, digest)
            if evidence is not None:
                self._out.append(Offended(evidence))
            return
        view.proposal = proposal
        view.proposal_digest = digest
        view.proposal_at_us = self.last_proposal_us = self._now.monotonic_us
        if proposal.notarisation is None:
            self.clock_lag.proposed(leader, proposal.block.header.timestamp_ms, self._now.wall_ms)
        self._learn_justification(proposal)

    def _learn_justification(self, proposal: Proposal) -> None:
        """A proposal's certificate is one received: it is passed on, and moves this validator on."""
        if proposal.notarisation is not None:
            self._on_certificate(proposal.notarisation)
        elif proposal.block.header.parent != self.epoch.base.digest:
            try:
                self._on_certificate(Certificate.decode(proposal.block.body.justification))
            except InvalidInput:
                # `judge` refuses the proposal for it, and says why.
                return

    def branch(self, digest: Digest) -> Branch:
        """As `proposals.Knowledge`."""
        try:
            return self._finality.branches.branch(digest)
        except Unlinked as error:
            want = WantDigest(What.BLOCK, error.digest)
            raise Waits("an ancestor isn't here", want) from None
        except ForksFinal:
            raise Broken("CONS-32", "it doesn't extend the last final block") from None

    def first_not_nullified(self, first: int, last: int) -> int | None:
        return self._views.first_not_nullified(first, last)

    def _judge(self, view: View) -> None:
        """Say notarize if the view's proposal is good; remember if it never will be."""
        proposal = view.proposal
        if proposal is None or view.refused or view.notarized is not None or self.own is None:
            return
        try:
            node = self._node_proposed(view)
            judge(proposal, node, self.epoch, self, self._now.wall_ms)
        except Waits as waits:
            if waits.want is not None:
                self._fetch(waits.want)
        except Broken as broken:
            assert proposal is not view.proposed, f"this node's own proposal: {broken}"
            view.refused = True
            leader = self._members[self.leader_of(view.number)].node_id
            self._out.append(Refused(view.number, leader, broken.rule, broken.problem))
        else:
            self._notarize(view, node)

    def _node_proposed(self, view: View) -> Node:
        try:
            return view.node()
        except InvalidInput as error:
            raise Broken("CONS-30", str(error)) from error

    # What this validator says. Each is decided at most once a view.

    def _notarize(self, view: View, node: Node) -> None:
        assert view.notarized is None and view.number == self.view
        view.notarized = vote = self._say_as.vote(VoteKind.NOTARIZE, view.number, node.digest)
        self._finality.branches.add(node)
        self._say(vote, Notarized(vote, node.block))

    def _may_finalize(self, view: View) -> bool:
        return view.nullified is None and view.finalized is None

    def _finalize(self, view: View, notarisation: Certificate) -> bool:
        """Say finalize, if nullify wasn't said; the record holds the notarisation."""
        if self.own is None or view.number <= self.final_view or not self._may_finalize(view):
            return False
        view.finalized = vote = self._say_as.vote(VoteKind.FINALIZE, view.number, notarisation.digest)
        self._say(vote, Finalized(vote, notarisation))
        return True

    def _may_nullify(self, view: View) -> bool:
        return view.finalized is None and view.nullified is None

    def _nullify(self) -> None:
        view = self._views.at(self.view)
        if self.own is None or not self._may_nullify(view):
            return
        view.nullified = vote = self._say_as.vote(VoteKind.NULLIFY, view.number)
        self._say(vote, Nullified(vote))

    def _say(self, vote: ViewVote, record: Record) -> None:
        number = self._log(record)
        self._say_as.waits_for_log(vote)
        self._send(ALL, vote, number)

    def _log(self, record: Record) -> int:
        self._out.append(self._say_as.log(record))
        return self._say_as.last_number

    def _send(self, to: object, message: object, after: int = 0) -> None:
        self._out.append(Send(to, message, Stream.VOTES, after))  # type: ignore[arg-type]

    def _on_logged(self, number: int) -> None:
        for vote in self._say_as.made_durable(number):
            if not self._finality.covers(vote.view):
                if vote.view == self.view:
                    self._heard.add(vote.validator)
                self._count(vote)

    # Timers.

    def _set(self, name: str, delay_us: int) -> None:
        self._timers.add(name)
        self._out.append(SetTimer(name, delay_us))

    def _cancel(self, name: str) -> None:
        if name in self._timers:
            self._timers.discard(name)
            self._out.append(CancelTimer(name))

    def _on_timer(self, name: str) -> None:
        if name not in self._timers or self.ended is not None:
            return
        self._timers.discard(name)
        if name in (LEADER, ADVANCE):
            self._nullify()
        elif name == AGAIN and self._is_restless():
            # What was owed may have come since.
            self._say_again()
        elif name == EMPTY:
            self._is_due = True

    def _activate(self) -> None:
        """There is work: the leader owes a block now, so its time runs (CONS-31)."""
        if self._active:
            return
        self._active = True
        self._cancel(EMPTY)
        if self._views.at(self.view).proposal is None:
            leader = self.leader_of(self.view)
            if leader != self.own and self._silence.is_silent(leader):
                self._nullify()
            else:
                self._set(LEADER, self._pacing.leader_us + self._rest_us(self._entered_us))
        self._set(ADVANCE, self._pacing.advance_us + self._rest_us(self._entered_us))

    def _rest_us(self, since_us: int) -> int:
        """How long the view's leader lets ordering rest (CONS-37): not at all after a view without a block.

        It counts from the proposal before, and who waits for it from the entry, which came later: neither
        needs the other's clock, and no leader is given up for resting.
        """
        if self._entry is None or self._entry.kind != VoteKind.NOTARIZE:
            return 0
        return max(0, since_us + self.settings.interval_min_us - self._now.monotonic_us)

    def _say_again(self) -> None:
        """Stuck: no vote for 2D, and nobody rests: own votes of the view, and the certificate of its entry.

        Also the own finalize of the last notarised view: nothing else would mend a block that is notarised
        and not final while there is no work (whoever has it final answers with the finalisation).
        """
        resting = self._rest_us(self._entered_us)
        quiet = -resting if resting else self._now.monotonic_us - self._last_vote_us
        if quiet < self._pacing.leader_us:
            self._set(AGAIN, self._pacing.leader_us - quiet)
            return
        self._last_vote_us = self._now.monotonic_us
        if self._entry is not None:
            self._send(ALL, self._entry)
        self._repeat(self._views.at(self.view))
        highest = self._views.highest
        if highest is not None and highest.number > self.final_view:
            if highest.finalized is not None:
                self._send(ALL, highest.finalized, self._say_as.after(highest.finalized))
            self._unfinal_is_work = True
        self._peers.ask_anew()

    def _repeat(self, view: View) -> None:
        if view.proposed is not None:
            self._send(ALL, view.proposed, self._say_as.last_number)
        for vote in view.own_votes():
            self._send(ALL, vote, self._say_as.after(vote))

    # Whatever the state allows now.

    def _settle(self) -> None:
        if self._finality.pending is not None and not self._is_over():
            self._make_final()
        if self._is_over():
            return
        if not self._is_swamped():
            self._take_part(self._views.at(self.view))
        self._fetch_notarised()
        if AGAIN not in self._timers and self._is_restless():
            self._set(AGAIN, self._pacing.leader_us)

    def _take_part(self, view: View) -> None:
        if view.proposal is not None:
            self._cancel(LEADER)
            self._judge(view)
        if not self._active and self._owes_block(view):
            self._activate()
        if self.own is not None and self.leader_of(self.view) == self.own and view.proposed is None:
            self._lead(view)

    def _owes_block(self, view: View) -> bool:
        due = self._is_due or view.proposal is not None
        return due or self._leading.has_work(self._unfinal_is_work)

    def _is_swamped(self) -> bool:
        """Whether this node executes so far behind what is final that it must not help it further away.

        Nothing else bounds how far empty blocks run ahead of execution. It then neither proposes nor votes
        for a block, and begins no timers of a view: without a quorum that keeps up ordering waits, and no
        view is lost. What is final counts and not what is notarised, which execution can't help.
        """
        return self.final_height - self.roots.highest > self.settings.unexecuted_max

    def _is_over(self) -> bool:
        return self.ended is not None or bool(self.halted)

    def _is_restless(self) -> bool:
        """Whether something is owed: a block for work, finality for a notarised block, a missing block."""
        highest = self._views.highest
        return (
            self._active
            or self._finality.pending is not None
            or (highest is not None and highest.number > self.final_view)
        )

    def _lead(self, view: View) -> None:
        """Propose: at once when there is work, an empty block when it is time (CONS-37)."""
        if not self._active:
            return
        left = 0 if self.last_proposal_us is None else self._rest_us(self.last_proposal_us)
        if left:
            if INTERVAL not in self._timers:
                self._set(INTERVAL, left)
            return
        try:
            proposal = self._leading.propose(self.view, self, self._now.wall_ms)
        except Waits as waits:
            if waits.want is not None:
                self._fetch(waits.want)
            return
        view.proposed = proposal
        number = self._log(Proposed(proposal))
        self._send(ALL, proposal, number)
        if view.proposal is None:
            view.proposal = proposal
            view.proposal_digest = proposal.block.digest()
            view.proposal_at_us = self.last_proposal_us = self._now.monotonic_us
        self._cancel(LEADER)
        self._judge(view)

    # Finality.

    def _make_final(self) -> None:
        """Make final what a finalisation names, once the blocks down to the final chain are here."""
        certificate = self._finality.pending
        assert certificate is not None, "only a finalisation makes final"
        try:
            self._out += self._finality.advance()
        except Unlinked as error:
            self._fetch(WantDigest(What.BLOCK, error.digest), self._peers.signers(certificate))
            return
        except ForksFinal:
            self._halt(f"two final blocks: one of view {certificate.view} doesn't extend the final chain")
            return
        self._views.forget_below(self.final_view)
        self._compare_roots()
        if self.ended is not None:
            self._out += [CancelTimer(name) for name in sorted(self._timers)]
            self._timers.clear()
            self._out.append(EpochEnded(certificate))

    def _on_block(self, block: Block) -> None:
        """A block that was asked for by digest. It needs no check: a quorum notarised it or a descendant."""
        digest = block.digest()
        if not self._peers.came(WantDigest(What.BLOCK, digest)):
            return
        try:
            node = node_of(block, digest)
        except InvalidInput as error:
            self._halt(f"a notarised block is malformed: {error}")
            return
        self._finality.branches.add(node)

    def _on_executed(self, facts: ExecutedBlock) -> None:
        self.roots.add(facts)
        self._compare_roots()

    def _compare_roots(self) -> None:
        """A final header that shows another root than this node computed: stop (CONS-43)."""
        contradiction = self._finality.contradiction()
        if contradiction:
            self._halt(contradiction)

    def _halt(self, reason: str) -> None:
        self.halted = reason
        self._out.append(Halt(reason))

    # Asking for what is missed (CONS-63).

    def _fetch_notarised(self) -> None:
        """A notarised block is needed by whoever extends or serves it, voted for or not."""
        highest = self._views.highest
        if highest is None or highest.notarisation is None or highest.number <= self.final_view:
            return
        try:
            self._finality.branches.path(highest.notarisation.digest)
        except Unlinked as error:
            self._fetch(WantDigest(What.BLOCK, error.digest), self._peers.signers(highest.notarisation))
        except ForksFinal:
            self._halt(f"the block notarised in view {highest.number} doesn't extend the final chain")

    def _fetch(self, want: Want, peers: tuple[bytes, ...] = ()) -> None:
        self._out += self._peers.fetch(want, self._now.monotonic_us, peers)
