"""What notifications counts about its mails."""

from functools import partial

from services.chassis import metrics
from services.chassis.metrics import Part

_counter = partial(metrics.counter, part=Part.MAILS)

SENT = _counter("popfax_mails_sent_total", "Mails that the mail server took", "How many mails are sent?")
REFUSED = _counter(
    "popfax_mails_refused_total", "Mails that the mail server refused for good", "Does the mail server refuse mails?"
)
RETRIED = _counter(
    "popfax_mails_retried_total",
    "Attempts that the mail server put off, or that found it away",
    "Is the mail server slow, or away?",
)
PARKED = _counter(
    "popfax_mails_parked_total",
    "Mails whose bytes can't be made, or would not say what is meant",
    "Are there mails that can't be rendered?",
)
ABANDONED = _counter(
    "popfax_mails_abandoned_total",
    "Mails given up: nobody was ever known under the recipient's id",
    "Does somebody send ids of people who do not exist?",
)
UNCERTAIN = _counter(
    "popfax_mails_uncertain_total",
    "Mails sent again because a crash hid the server's answer",
    "How many mails may have arrived twice?",
)
DELAY = metrics.histogram(
    "popfax_mail_delay_seconds",
    "Time from a mail's commit to its acceptance by the mail server",
    "How long do people wait for their mails?",
    part=Part.MAILS,
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 86400),
)
