"""A pytest plugin: a line for each failure as soon as it is known, workers' too."""


def pytest_runtest_logreport(report):
    if report.failed:
        what = getattr(getattr(report.longrepr, "reprcrash", None), "message", report.longrepr)
        first = (str(what).strip().splitlines() or [""])[0]
        print(f"\nFAILED {report.nodeid} ({report.when}): {first}", flush=True)
