"""The reader of the README's blocks: it must not let a wrong README pass."""

from __future__ import annotations

import pytest

from tests.support.readme_blocks import Block, ReadmeError, matches, read_blocks

GOOD = """\
# Title
<!-- test: setup -->
```bash
make serve
```

<!-- test: request -->

```bash
curl host
```
It prints
<!-- test: answer -->
```json
{"a": 1}
```
<!-- test: none, needs Docker -->
```bash
docker build .
```
```mermaid
graph
```
"""


def test_blocks_are_read_in_order() -> None:
    assert read_blocks(GOOD) == (
        Block("setup", "bash", "make serve\n", 4),
        Block("request", "bash", "curl host\n", 10, '{"a": 1}\n'),
        Block("none", "bash", "docker build .\n", 19),
    )


@pytest.mark.parametrize(
    ("markdown", "says"),
    [
        ("```bash\nls\n```\n", "line 2: the bash block has no test comment"),
        ("<!-- test: request -->\ntext between\n```python\nx\n```\n", "no test comment"),
        ("<!-- test: maybe -->\n```bash\nls\n```\n", "none of"),
        ("<!-- test: none -->\n```bash\nls\n```\n", "none of"),
        ("<!-- test: answer -->\n```json\n{}\n```\n", "to nothing"),
        (GOOD.replace("test: request", "test: setup"), "to nothing"),
    ],
)
def test_a_wrong_readme_is_refused(markdown: str, says: str) -> None:
    with pytest.raises(ReadmeError, match=says):
        read_blocks(markdown)


@pytest.mark.parametrize(
    ("shown", "printed", "expected"),
    [
        ('{"a": 1}', '{"a": 1, "b": 2}', True),
        ('{"a": 1, "b": 2}', '{"a": 1}', False),
        ('{"a": "..."}', '{"a": [1, 2]}', True),
        ('{"a": "moved ... Rome."}', '{"a": "moved to Rome."}', True),
        ('{"a": "moved ... Rome."}', '{"a": "moved to Paris."}', False),
        ('{"a": -1.234}', '{"a": -1.2344}', True),
        ('{"a": -1.234}', '{"a": -1.236}', False),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": 1}', '{"a": 2}', False),
        ("[1, 2]", "[1, 2, 3]", False),
        ('[1, "..."]', "[1, 2, 3]", True),
        ('[1, "..."]', "[]", False),
        ('{"a": 1}', "no json", False),
        ("one\ntwo  \n", "\none  \ntwo", True),
        ("one\n...\nfour", "one\ntwo\nthree\nfour\n", True),
        ("one ... two", "one and two", True),
        ("one", "one more", False),
        ("a.c", "abc", False),
    ],
)
def test_answers_are_compared(shown: str, printed: str, expected: bool) -> None:
    assert matches(shown, printed) is expected
