"""Every state of the page, by the way in which somebody gets there: for axe, and for the pictures."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

from deploy.local.mailsink import read_mails
from popfax_contracts.topics import Principal
from tests.e2e.page.cast import Cast
from tests.e2e.page.people import Person, link_of_invitation
from tests.e2e.page.visits import Visit
from tests.tokens import cookie_of

Go = Callable[[Visit, Cast], None]


@dataclass(frozen=True)
class State:
    """A state: whose page it is on, how it comes about, and what has to be away meanwhile."""

    who: Callable[[Cast], Person | None]
    go: Go
    away: Principal | None = None


def _owner(cast: Cast) -> Person:
    return cast.anne


def _new(cast: Cast) -> Person:
    return cast.zoe


def _whole(visit: Visit, _: Cast) -> None:
    visit.page.wait_for_selector("#members")


def _editing(visit: Visit, _: Cast) -> None:
    visit.press("Modifier le nom du groupe", role="link")
    visit.page.wait_for_selector("#name")


def _bad_name(visit: Visit, cast: Cast) -> None:
    _editing(visit, cast)
    visit.page.evaluate("document.getElementById('name').removeAttribute('required')")
    visit.fill("Nom du groupe", " ")
    visit.press("Enregistrer")
    visit.page.wait_for_selector("#name-error")


def _low_balance(visit: Visit, _: Cast) -> None:
    visit.press("Modifier le seuil en POP unités", role="link")
    visit.page.wait_for_selector("#below")
    visit.page.check("[name=mail]")
    visit.press("Enregistrer", "#low")
    visit.page.wait_for_selector("#below-error")


def _bad_email(visit: Visit, _: Cast) -> None:
    visit.fill("Adresse e-mail", "pas une adresse")
    visit.press("Inviter / Créer")
    visit.page.wait_for_selector("#email-error")


def _refused(visit: Visit, cast: Cast) -> None:
    visit.fill("Adresse e-mail", cast.members[0].email)
    visit.press("Inviter / Créer")
    visit.see("déjà membre de votre groupe")


def _looking(visit: Visit, _: Cast) -> None:
    visit.fill("Adresse e-mail", "quelqu.un@example.com")
    visit.press("Inviter / Créer")
    visit.page.wait_for_selector(".pending")


def _plan(visit: Visit, _: Cast) -> None:
    visit.fill("Adresse e-mail", "camille.roux@branch.example")
    visit.press("Inviter / Créer")
    visit.see("Choisissez un forfait")


def _person(visit: Visit, cast: Cast) -> None:
    _plan(visit, cast)
    visit.press("Continuer", "#flow")
    visit.fill("Prénom", "Camille")
    visit.fill("Nom", "Roux")


def _bad_person(visit: Visit, cast: Cast) -> None:
    _person(visit, cast)
    visit.page.locator("#person-email").fill("camille.roux")
    visit.press("Continuer", "#flow")
    visit.page.wait_for_selector("#error-email")


def _payment(visit: Visit, cast: Cast) -> None:
    _person(visit, cast)
    visit.press("Continuer", "#flow")
    visit.see("Comment souhaitez-vous payer")


def _progress(visit: Visit, cast: Cast) -> None:
    _payment(visit, cast)
    visit.press("Continuer", "#flow")
    visit.page.wait_for_selector(".trail .now")


def _short(visit: Visit, cast: Cast) -> None:
    _payment(visit, cast)
    visit.press("Continuer", "#flow")
    visit.see("Vous n’avez pas assez")


def _several(visit: Visit, _: Cast) -> None:
    visit.press("Inviter plusieurs personnes à la fois", role="link")
    visit.page.wait_for_selector("#pasted")


def _judged(visit: Visit, cast: Cast) -> None:
    _several(visit, cast)
    lines = ("Camille Roux <camille.roux@branch.example>", cast.members[0].email, cast.anne.email, "pas une adresse")
    visit.page.locator("#pasted").fill("\n".join(lines))
    visit.press("Vérifier la liste")
    visit.see("1 adresse est prête")


def _list(visit: Visit, cast: Cast) -> None:
    _judged(visit, cast)
    visit.press("Inviter 1 personne")
    visit.see("n’est encore à personne")


def _accounts(visit: Visit, cast: Cast) -> None:
    _list(visit, cast)
    visit.press("Créer 1 compte", role="link")
    visit.page.locator("[id='last_name.0']").fill("")
    visit.press("Continuer", "#flow")
    visit.page.wait_for_selector("[id='error-last_name.0']")


def _accounts_payment(visit: Visit, cast: Cast) -> None:
    _accounts(visit, cast)
    visit.page.locator("[id='last_name.0']").fill("Roux")
    visit.press("Continuer", "#flow")
    visit.see("Payer", "#flow")


def _followed_link(visit: Visit, cast: Cast) -> None:
    mails = [mail for mail in read_mails(visit.product.stack.mail.mails) if cast.nora.email in str(mail["to"])]
    visit.page.goto(link_of_invitation(mails[0]))
    visit.page.wait_for_selector(".note")


def _link_for_another(visit: Visit, cast: Cast) -> None:
    _followed_link(visit, cast)
    visit.open(_link_of(visit, cast.zoe.id))
    visit.see("destinée à un autre compte")


def _bad_link(visit: Visit, _: Cast) -> None:
    visit.expected.add(404)
    visit.open("/invitation?id=x&token=y")
    visit.see("n’est pas valable")


def _chosen(visit: Visit, cast: Cast) -> None:
    visit.tick(cast.members[0].name, cast.members[2].name)
    visit.page.locator("#amount").fill("20")
    visit.see("Coût pour 2 membres", "#cost")


def _too_dear(visit: Visit, cast: Cast) -> None:
    visit.page.get_by_label("Tous").check()
    visit.page.locator("#amount").fill("900")
    visit.see("Il vous manque", "#cost")


def _nobody_chosen(visit: Visit, _: Cast) -> None:
    visit.press("Transférer")
    visit.see("Choisissez d’abord", "#members-answer")


def _confirm_transfer(visit: Visit, cast: Cast) -> None:
    _chosen(visit, cast)
    visit.press("Transférer")
    visit.page.wait_for_selector("dialog[open]")


def _confirm_detach(visit: Visit, cast: Cast) -> None:
    visit.tick(cast.members[0].name, cast.members[4].name)
    visit.press("Supprimer la sélection")
    visit.page.wait_for_selector("dialog[open]")


def _confirm_extension(visit: Visit, cast: Cast) -> None:
    visit.tick(cast.members[0].name, cast.members[3].name)
    visit.press("Prolonger")
    visit.page.wait_for_selector("dialog[open] .bill.out")


def _transferring(visit: Visit, cast: Cast) -> None:
    visit.tick(cast.members[4].name)
    visit.page.locator("#amount").fill("1")
    visit.press("Transférer")
    visit.press("Transférer 1\u00a0POP", "dialog")
    visit.page.wait_for_selector("#members-answer .pending")


def _order(visit: Visit, cast: Cast) -> None:
    visit.tick(cast.members[0].name, cast.members[2].name)
    visit.press("Recharge automatique")
    visit.page.wait_for_selector("#threshold_units")
    visit.press("Enregistrer")
    visit.page.wait_for_selector("#threshold_units-error")


def _orders(visit: Visit, _: Cast) -> None:
    visit.open("/orders")
    visit.page.wait_for_selector("#orders-title")


def _confirm_leave(visit: Visit, _: Cast) -> None:
    visit.press("Quitter (Durand & Fils)", role="link")
    visit.page.wait_for_selector("dialog[open]")


def _transfers(visit: Visit, _: Cast) -> None:
    visit.press("Transferts", "#history", role="link")
    visit.page.wait_for_selector("#tab-transfers[aria-current]")


def _member(visit: Visit, cast: Cast) -> None:
    visit.open(f"/members/{cast.members[0].id}")
    visit.see("Membre depuis le")


def _by_days(visit: Visit, cast: Cast) -> None:
    visit.open(f"/history?member={cast.members[0].id}&from=2020-01-01&to=2199-12-01")
    visit.see("Afficher tous les membres")


def _statement(visit: Visit, _: Cast) -> None:
    visit.open("/statement")
    visit.see("Relevé de POP unités")


def _nobody_found(visit: Visit, _: Cast) -> None:
    visit.open("/?search=personne")
    visit.see("Aucun membre trouvé")


def _by_units(visit: Visit, _: Cast) -> None:
    visit.open("/?search=e&sort=units&direction=desc")
    visit.page.get_by_label("Tous").check()
    visit.see("membres sélectionnés", "#selected")


def _invited_members(visit: Visit, _: Cast) -> None:
    visit.open("/?show=invited")
    visit.page.wait_for_selector("#members .entry")


def _stranger(visit: Visit, _: Cast) -> None:
    visit.expected.add(401)
    visit.open()


def _over(visit: Visit, _: Cast) -> None:
    visit.expected.add(401)
    visit.open("/login?token=over")


def _link_of(visit: Visit, who: UUID) -> str:
    """What comes after the page's address in a link that logs somebody in."""
    return visit.product.stack.keys.login_link("", who)


def _somebody_else(visit: Visit, cast: Cast) -> None:
    visit.open(_link_of(visit, cast.zoe.id))
    visit.see("Continuer sous un autre nom")


def _used(visit: Visit, cast: Cast) -> None:
    link = _link_of(visit, cast.zoe.id)
    cookie_of(f"{visit.url}{link}")
    visit.expected.add(401)
    visit.open(link)
    visit.see("Ce lien a déjà servi")


def _too_many(visit: Visit, _: Cast) -> None:
    visit.open(_link_of(visit, uuid4()))  # nobody whom another test needs
    said = visit.page.get_by_text("C’était trop à la fois")
    while said.count() == 0:  # each second some more is allowed again
        visit.ask_too_often()
        visit.open()
    visit.wrongs.clear()  # a page that was let through on the way may have been refused its stream of changes


def _nothing(visit: Visit, _: Cast) -> None:
    visit.expected.add(404)
    visit.open("/nothing")


STATES: Mapping[str, State] = {
    "owner": State(_owner, _whole),
    "empty": State(_new, _whole),
    "member-invited": State(lambda cast: cast.nora, _whole),
    "name-edited": State(_owner, _editing),
    "name-wrong": State(_owner, _bad_name),
    "low-balance-wrong": State(_owner, _low_balance),
    "email-wrong": State(_owner, _bad_email),
    "invitation-refused": State(_owner, _refused),
    "plan": State(_owner, _plan),
    "person": State(_owner, _person),
    "person-wrong": State(_owner, _bad_person),
    "payment": State(_owner, _payment),
    "payment-short": State(_new, _payment),
    "creation-refused": State(_new, _short),
    "list-pasted": State(_owner, _several),
    "list-judged": State(_owner, _judged),
    "list-sent": State(_owner, _list),
    "accounts-wrong": State(_owner, _accounts),
    "accounts-payment": State(_owner, _accounts_payment),
    "invitation-followed": State(lambda _: None, _followed_link),
    "invitation-for-another": State(lambda _: None, _link_for_another),
    "invitation-link-bad": State(lambda _: None, _bad_link),
    "chosen": State(_owner, _chosen),
    "chosen-too-dear": State(_owner, _too_dear),
    "nobody-chosen": State(_owner, _nobody_chosen),
    "transfer-confirmed": State(_owner, _confirm_transfer),
    "removal-confirmed": State(_owner, _confirm_detach),
    "extension-confirmed": State(_owner, _confirm_extension),
    "order-wrong": State(_owner, _order),
    "orders": State(_owner, _orders),
    "leaving-confirmed": State(_owner, _confirm_leave),
    "history-transfers": State(_owner, _transfers),
    "history-by-days": State(_owner, _by_days),
    "member": State(_owner, _member),
    "statement": State(_owner, _statement),
    "members-found": State(_owner, _by_units),
    "members-not-found": State(_owner, _nobody_found),
    "members-invited": State(_owner, _invited_members),
    "stranger": State(lambda _: None, _stranger),
    "visit-over": State(lambda _: None, _over),
    "visit-of-somebody-else": State(_owner, _somebody_else),
    "link-used": State(lambda _: None, _used),
    "too-many": State(lambda _: None, _too_many),
    "nothing": State(lambda _: None, _nothing),
    "creation-in-progress": State(_owner, _progress, away=Principal.PROVISIONING),
    "transfer-in-progress": State(_owner, _transferring, away=Principal.LEDGER),
}


@contextmanager
def arranged(
    state: State, visit_of: Callable[[Person | None], AbstractContextManager[Visit]], cast: Cast
) -> Iterator[Visit]:
    """Bring a page into a state. What had to be away is back in the end."""
    with visit_of(state.who(cast)) as visit:
        service = visit.product.services[state.away] if state.away else None
        if service:
            service.stop()
        try:
            state.go(visit, cast)
            yield visit
        finally:
            if service:
                service.launch(**service.settings)
                service.wait_ready()
