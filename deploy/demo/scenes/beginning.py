"""How a group begins: what is on sale, the group's owner, its name, and its first invitations."""

from deploy.demo.cast import BOUGHT_UNITS, CHEAP_PLAN, GROUP_NAME, Person
from deploy.demo.checks import Joining, Offer
from deploy.demo.reading import link_in, text_of
from deploy.demo.stage import TIMEOUT_S, Ask, Stage, bought_by
from deploy.local.process import wait_until
from deploy.operator.cli.wire import Seen
from popfax_contracts.groups import AcceptInvitation, AccountCreationRequired, InviteByEmail, RenameGroup
from popfax_contracts.message import group_of
from popfax_contracts.provisioning import OptionPublished, PlanPublished
from popfax_contracts.topics import PROVISIONING_PLANS
from services.provisioning import catalogue as catalogue_file


def catalogue(stage: Stage) -> int:
    """Show plans and options; return the cheap plan's validity in months."""
    stage.tell.scene("What is on sale")
    records = stage.follower.wait_for(_is_all_on_sale, PROVISIONING_PLANS.name, TIMEOUT_S)
    plans = [seen.body for seen in records if isinstance(seen.body, PlanPublished)]
    options = [seen.body for seen in records if isinstance(seen.body, OptionPublished)]
    stage.prices |= {plan.plan: plan.price_units for plan in plans}
    # A price is published to everybody; groups refuses a plan that it has not heard of.
    wait_until(lambda: stage.reader.known_prices() == stage.prices, TIMEOUT_S, interval_s=0.05)
    rows: list[tuple[object, ...]] = [
        (plan.plan, f"{plan.price_units} POP", f"{plan.validity_months} months", "yes" if plan.fax_number else "no")
        for plan in sorted(plans, key=lambda plan: -plan.price_units)
    ]
    rows += [
        (each.option, f"{each.price_units} POP", "", "") for each in sorted(options, key=lambda each: -each.price_units)
    ]
    stage.tell.say(f"provisioning publishes its prices on {PROVISIONING_PLANS.name}; groups has read them:")
    stage.tell.table(("plan or option", "price", "for", "own fax number"), rows)
    return next((plan.validity_months for plan in plans if plan.plan == CHEAP_PLAN), 0)


def _is_all_on_sale(records: list[Seen]) -> bool:
    """Return whether the whole catalogue is there: plans and options are on partitions of their own."""
    on_sale = catalogue_file.read(catalogue_file.DEFAULT)
    plans = {seen.body.plan for seen in records if isinstance(seen.body, PlanPublished)}
    options = {seen.body.option for seen in records if isinstance(seen.body, OptionPublished)}
    return set(on_sale.plans) <= plans and set(on_sale.options) <= options


def owner(stage: Stage) -> tuple[str | None, str | None]:
    """Let Anne sign up, buy units, and name her group; return its name before and after."""
    anne = stage.cast.anne
    stage.tell.scene(f"{anne.name} signs up, buys {BOUGHT_UNITS} Pop units, and has a group")
    stage.tell.heading()
    sent = stage.publish((anne.register(), None), (bought_by(anne, BOUGHT_UNITS), None))
    ends = {"subscriber-registered", "person-recorded", "units-credited"}
    stage.follow(sent, lambda trail: ends <= {seen.short_name for seen in trail.seen}, aloud=True)
    before = stage.reader.group_name(anne.id)
    stage.tell.say(f"She owns a group now, called “{before}” as she is, and gives it another name:")
    rename = RenameGroup(group_id=group_of(anne.id), name=GROUP_NAME)
    trail = stage.ask(Ask(rename, anne.id, ("group-renamed",)))
    stage.tell_some(trail, "rename-group", "group-renamed")
    after = stage.reader.group_name(anne.id)
    stage.tell.say(f"“{after}” it is. {anne.first_name} has {stage.reader.balance(anne.id)}.")
    return before, after


def invitation(stage: Stage) -> Joining:
    """Let Anne invite Paul, who is a subscriber, and Paul accept with the link in his mail."""
    anne, paul = stage.cast.anne, stage.cast.paul
    stage.tell.scene(f"She invites {paul.name}, who has a Popfax account already")
    before = stage.units(anne, paul)
    asked = stage.ask(Ask(_invite(anne, paul), anne.id, ("invitation-sent", "send-invitation")))
    stage.tell_some(asked, "invite-by-email", "invitation-sent", "send-invitation")
    stage.wait_for_mails(1, paul)
    link: dict[str, str] = {}
    for mail in stage.reader.mails_to([paul.email]):
        link = link_in(mail)
        stage.tell.mail(mail, text_of(mail))
    invited = stage.reader.invitations_of(anne.id, paul.id)
    was_member = paul.id in stage.reader.members_of(anne.id)
    stage.tell.say("Opening the link changes nothing. Paul accepts, with the token that only this mail has:")
    # Without a mail there is no token: this is refused, and a check fails.
    answer = {"invitation_id": link.get("id", paul.id), "token": link.get("token")}
    accept = Ask(AcceptInvitation.model_validate(answer), None, ("member-joined", "membership-recorded"))
    answered = stage.ask(accept)
    stage.tell_some(answered, "accept-invitation", "invitation-accepted", "member-joined")
    is_member = paul.id in stage.reader.members_of(anne.id)
    stage.tell.say(f"{paul.first_name} is {'a member' if is_member else 'no member'} of “{GROUP_NAME}”.")
    return Joining(
        asked=stage.deed(asked, (anne, paul), before, None),
        token="token" in link,
        invited=invited,
        was_member=was_member,
        answered=stage.deed(answered, (anne, paul), before, None),
        ended=stage.reader.invitations_of(anne.id, paul.id),
        is_member=is_member,
    )


def nobody_there(stage: Stage) -> Offer:
    """Let Anne invite an address that nobody has."""
    anne, sam = stage.cast.anne, stage.cast.sam
    stage.tell.scene(f"She invites {sam.email}, which nobody has")
    trail = stage.ask(Ask(_invite(anne, sam), anne.id, ("account-creation-required",)))
    stage.tell_some(trail, "invite-by-email", "account-creation-required")
    answers = [seen.body for seen in trail.seen if isinstance(seen.body, AccountCreationRequired)]
    prices = {offer.plan: offer.price_units for answer in answers for offer in answer.plans}
    stage.tell.say("No mail leaves. The answer is what an account for that address would cost today.")
    return Offer(
        types=tuple(seen.short_name for seen in trail.seen),
        prices=prices,
        accounts=len(stage.reader.accounts_of(sam.email)),
    )


def _invite(owner_: Person, invited: Person) -> InviteByEmail:
    return InviteByEmail(group_id=group_of(owner_.id), email=invited.email)
