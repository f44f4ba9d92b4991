"""What groups does with each message that is not a saga's reply: one function per message, one module per subject.

Each begins with its checks, in the order that the contract promises; what follows from them is in `transitions`.
"""
