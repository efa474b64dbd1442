"""Names for generated texts; nobody in particular."""

from __future__ import annotations

FIRST_NAMES = (
    *("Tom", "Anna", "Ravi", "Mei", "Omar", "Lena", "Jack", "Sofia", "Peter", "Nina", "Carlos"),
    *("Ruth", "Ben", "Emma", "Ivan", "Zoe", "Laura", "David", "Karen", "Hugo", "Alice", "Martin"),
    *("Elena", "Samuel", "Grace", "Oscar", "Judy", "Frank", "Maria", "George", "Helen", "Victor"),
)
UNSEEN_FIRST_NAMES = (
    *("Aisha", "Bruno", "Chloe", "Dmitri", "Esther", "Felix", "Greta", "Hassan", "Ines", "Jonas"),
    *("Kofi", "Louise", "Miguel", "Noor", "Olga", "Paul", "Rosa", "Stefan", "Tara", "Yusuf"),
)
LAST_NAMES = (
    *("Smith", "Miller", "Novak", "Garcia", "Rossi", "Tanaka", "Kumar", "Olsen", "Dubois"),
    *("Weber", "Brown", "Silva", "Kowalski", "Jensen", "Murphy", "Ivanov", "Haddad", "Berg"),
)
UNSEEN_LAST_NAMES = (
    *("Clark", "Petrov", "Moreau", "Schmidt", "Costa", "Nguyen", "Lindgren", "Okafor", "Walsh"),
)
