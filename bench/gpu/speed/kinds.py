"""Names of the kinds of answers that the report compares."""

BASE_ALONE = "base alone"
PLAIN_ROWS = "plain requests, 3 rows"
COMPOSED = "composed, 3 rows"
