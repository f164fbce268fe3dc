import numpy as np
import pytest
from jaxtyping import TypeCheckError

from digsite._core.ranking import auroc


def test_an_array_of_another_shape_than_the_signature_says_is_an_error_in_the_tests():
    with pytest.raises(TypeCheckError):
        auroc(np.zeros(3), np.zeros(2, dtype=bool))
