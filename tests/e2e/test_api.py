"""Commands posted to the API, decided by the real services: whoever posts one reads what became of it."""

from uuid import UUID

from tests.e2e.driver import PRICES, Owner, World, wait
from tests.integration.serving import Answer, Client


def _ended(client: Client, posted: Answer) -> tuple[str, str | None]:
    """Wait until a command has ended; return its state, and how it was answered or why it was refused."""
    assert posted.status == 202, posted.text
    location = posted.headers["location"]
    wait(lambda: client.get(location).json["state"] != "pending", f"the end of {location}")
    told = client.get(location).json
    assert told["ended_at"] is not None
    return told["state"], told["result"]["event"] if told["state"] == "done" else told["code"]


def _names(client: Client) -> set[str]:
    return {member["first_name"] for member in client.get("/v1/group").json["members"]}


def _is_known(client: Client, units: int) -> bool:
    return bool(client.get("/v1/units").json["available_units"] == units and client.get("/v1/group").json["name"])


def _known(world: World, *owners: Owner) -> list[Client]:
    """Clients of people, once groups has learned of them."""
    clients = [world.client(owner.id) for owner in owners]
    for client, owner in zip(clients, owners, strict=True):
        wait(lambda client=client, owner=owner: _is_known(client, owner.units), "groups knows them")  # type: ignore[misc]
    return clients


def test_an_account_for_a_new_member_from_the_post_to_the_group(world: World) -> None:
    owner = world.owner(units=100)
    (ada,) = _known(world, owner)
    price = PRICES["send_only"]
    body = {
        "plan": "send_only",
        "price_units": price,
        "email": f"nina.{world.mark}@example.com",
        "first_name": "Nina",
        "last_name": "Petit",
        "language": "fr",
    }
    with ada.events() as events:
        assert next(events)["event"] == "connected"
        posted = ada.post("create-member-account", body, "the-order")
        assert _ended(ada, posted) == ("done", "member-account-created")
        assert next(events)["event"] == "changed"
    again = ada.post("create-member-account", body, "the-order")
    assert (again.status, again.json) == (200, ada.get(posted.headers["location"]).json)
    member_id = ada.get(posted.headers["location"]).json["result"]["member_id"]
    assert _names(ada) == {"Nina"}, "done means that it is to be seen"
    assert ada.get("/v1/units").json["available_units"] == 100 - price
    (joined,) = world.client(UUID(member_id)).get("/v1/memberships").json["items"]
    assert joined["group_name"] == ada.get("/v1/group").json["name"]
    assert [line["kind"] for line in ada.get("/v1/history?filter=invitations").json["lines"]] == ["account"]
    world.settle()


def test_an_account_that_can_not_be_paid_is_refused_with_its_code(world: World) -> None:
    (ada,) = _known(world, world.owner(units=1))
    body = {
        "plan": "send_only",
        "price_units": PRICES["send_only"],
        "email": f"nobody.{world.mark}@example.com",
        "first_name": "No",
        "last_name": "Body",
        "language": "en",
    }
    assert _ended(ada, ada.post("create-member-account", body)) == ("refused", "units_short")
    body["price_units"] = 1
    assert _ended(ada, ada.post("create-member-account", body)) == ("refused", "price_changed")
    world.settle()


def test_an_invitation_a_transfer_and_an_end(world: World) -> None:
    owner, guest = world.owner(units=100), world.owner(units=7, name="guest")
    ada, bob = _known(world, owner, guest)
    unknown = ada.post("invite-by-email", {"email": f"unknown.{world.mark}@example.com"})
    assert _ended(ada, unknown) == ("done", "account-creation-required")
    assert _ended(ada, ada.post("invite-by-email", {"email": guest.email})) == ("done", "invitation-sent")
    (invitation,) = bob.get("/v1/invitations").json["items"]
    assert _ended(bob, bob.post("accept-invitation", {"invitation_id": invitation["invitation_id"]})) == (
        "done",
        "invitation-accepted",
    )
    (member,) = ada.get("/v1/group").json["members"]
    assert (member["member_id"], member["available_units"]) == (str(guest.id), 7)
    give = {"mode": "amount", "amount_units": 30, "members": [str(guest.id)]}
    assert _ended(ada, ada.post("transfer-units", give)) == ("done", "units-transferred")
    assert bob.get("/v1/units").json["available_units"] == 37
    assert _ended(ada, ada.post("transfer-units", give | {"amount_units": 71})) == ("refused", "units_short")
    assert _ended(bob, bob.post("transfer-units", give)) == ("refused", "not_member")
    assert _ended(ada, ada.post("rename-group", {"name": "Friends"})) == ("done", "group-renamed")
    (joined,) = bob.get("/v1/memberships").json["items"]
    assert joined["group_name"] == "Friends"
    detach = {"members": [{"member_id": str(guest.id), "epoch": 1}]}
    assert _ended(bob, bob.post("leave-group", {"group_id": joined["group_id"], "epoch": 1})) == ("done", "member-left")
    assert _ended(ada, ada.post("detach-members", detach)) == ("done", "members-detached")
    assert ada.get("/v1/group").json["members"] == bob.get("/v1/memberships").json["items"] == []
    world.settle()
    world.check_log()
