"""What a user can mend."""


class UserError(Exception):
    """A mistake the user can mend: the rule, what was received, what to do."""
