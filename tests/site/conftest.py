from pathlib import Path

import pytest
from fictional import lay_out

from catalog import pages


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def site(checkout: Path) -> Path:
    return pages.build(checkout)
