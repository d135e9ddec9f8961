"""Flags to a frozen `Config`: fields, rules, the command line."""
