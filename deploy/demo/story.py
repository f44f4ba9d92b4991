"""The story: played on the running product, and told from what is read back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from deploy.demo.cast import CHEAP_PLAN, Cast, Person
from deploy.demo.checks import Observations
from deploy.demo.narration import Narrator
from deploy.demo.reading import Reader
from deploy.demo.scenes import beginning, creating, ending, living
from deploy.demo.stage import Ask, Stage
from deploy.operator.cli.connection import Connection

PAUL_HAS_LEFT = timedelta(days=20)
"""How long Paul's account lasts when the story begins."""


class Story:
    """Plays the scenes in order, and collects the observations."""

    def __init__(self, connection: Connection, reader: Reader, narrator: Narrator, cast: Cast) -> None:
        self._stage = Stage(connection, reader, narrator, cast)

    def play(self) -> Observations:
        """Play the whole story; return what was read back."""
        try:
            return self._play()
        finally:
            self._stage.close()

    def _play(self) -> Observations:
        stage = self._stage
        cast, reader = stage.cast, stage.reader
        validity_months = beginning.catalogue(stage)
        group_names = beginning.owner(stage)
        self._has_an_account(cast.paul)
        joined = beginning.invitation(stage)
        offered = beginning.nobody_there(stage)
        created = creating.creation(stage)
        self._learn_who_sam_is()
        short = creating.too_expensive(stage)
        shared = living.sharing(stage)
        spent = living.spending(stage)
        topped_up = living.topping_up(stage)
        extended = living.extending(stage)
        detached = living.detaching(stage)
        expired = living.expiring(stage)
        won, lost = creating.two_at_once(stage)
        history = ending.history(stage)
        members, agree = ending.members(stage)
        mails = ending.mails(stage)
        return Observations(
            prices=stage.prices,
            known_prices=reader.known_prices(),
            validity_months=validity_months,
            owner_name=cast.anne.name,
            group_names=group_names,
            joined=joined,
            offered=offered,
            created=created,
            short=short,
            won=won,
            lost=lost,
            shared=shared,
            spent=spent,
            topped_up=topped_up,
            extended=extended,
            detached=detached,
            expired=expired,
            history=history,
            members=members,
            agree=agree,
            mails=mails,
            recipients=tuple(sorted((cast.anne.first_name, cast.sam.first_name))),
            parked=reader.parked(),
            violations=stage.violations(),
        )

    def _has_an_account(self, person: Person) -> None:
        """Register somebody who was there before the story began."""
        command = person.register(CHEAP_PLAN, datetime.now(UTC) + PAUL_HAS_LEFT)
        self._stage.ask(Ask(command, None, ("subscriber-registered", "person-recorded")), in_full=False)

    def _learn_who_sam_is(self) -> None:
        """Learn the id of the account that was created for Sam."""
        stage = self._stage
        for account in stage.reader.accounts_of(stage.cast.sam.email):
            stage.cast = replace(stage.cast, sam=replace(stage.cast.sam, id=account.id))
