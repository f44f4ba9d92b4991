"""What goes wrong with the local stack, said in one line that a person can act on."""


class StackError(Exception):
    """The local stack can't do what was asked. The message is one readable line."""


class PortTakenError(StackError):
    """A port that was free a moment ago is taken. Who chose the port itself may choose another."""
