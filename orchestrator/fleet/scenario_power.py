"""What power leaves of a site's GPUs, and what serving takes of those."""

from __future__ import annotations

import math

import numpy as np

from orchestrator.fleet.scenario import HOURS_OF_DAY, Scenario
from orchestrator.fleet.trace import Floats, Ints


class Power:
    """Of all sites. An idle GPU draws power too, unless the cap keeps it from work: then its node is off. The
    building draws ``pue`` times what its machines do."""

    def __init__(self, scenario: Scenario) -> None:
        sites = scenario.sites
        self._start_hour = scenario.start_hour
        self.pue = np.array([site.pue for site in sites])
        self.busy_kw = np.array([site.kw_per_gpu for site in sites])
        self.idle_kw = np.array([site.idle_kw_per_gpu for site in sites])
        self.kw_each = self.pue * self.busy_kw  # of the building, for each GPU at work
        never = (math.inf,) * HOURS_OF_DAY
        self.cap_kw = np.array([site.cap_kw or never for site in sites]).T  # hour of the day, site
        self._serving = np.zeros((HOURS_OF_DAY, len(sites)), int)
        for one in scenario.serving:
            for site in one.sites:
                self._serving[:, site] += np.array(one.gpus_by_hour)
        self.serving = np.zeros(len(sites), int)  # in use now
        self.unserved = np.zeros(len(sites), int)  # that power or too few GPUs keep from serving, now
        self.held_back = np.zeros(len(sites), int)  # GPUs that power keeps off, now

    def kw(self, used: Floats | Ints, installed: Ints) -> Floats:
        """Of a whole building in this hour, with so many of its GPUs at work."""
        idle = installed - self.held_back - used
        drawn: Floats = self.pue * (self.busy_kw * used + self.idle_kw * idle)
        return drawn

    def at(self, hour: int) -> Floats:
        """The caps; infinite where there is none."""
        caps: Floats = self.cap_kw[(hour + self._start_hour) % HOURS_OF_DAY]
        return caps

    def usable(self, installed: Ints, hour: int) -> Ints:
        """GPUs for jobs in this hour, after those that serve."""
        within = np.minimum(np.floor(self.at(hour) / self.kw_each + 1e-9), installed).astype(int)
        wanted = self._serving[(hour + self._start_hour) % HOURS_OF_DAY]
        self.serving = np.minimum(wanted, within)
        self.unserved = wanted - self.serving
        self.held_back = installed - within
        left: Ints = within - self.serving
        return left
