"""What holds for all tests: properties are not timed.

Hypothesis by default fails an example that takes more than 200 ms, or whose inputs are slow to
make: on a machine where other things run, or where a collection of garbage falls into it, that
says nothing about the code. A test that is about time measures it itself.
"""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("untimed")
