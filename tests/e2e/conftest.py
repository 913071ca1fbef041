"""What the tests of whole stacks share with the unit tests."""

from tests.unit.conftest import postgresql

__all__ = ["postgresql"]
