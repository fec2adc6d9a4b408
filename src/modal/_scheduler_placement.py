"""Wishes for where a container runs."""

from __future__ import annotations

from typing import Optional, Sequence, Union


class SchedulerPlacement:
    """Configure where the scheduler places a container. Experimental; workers of one machine ignore it."""

    def __init__(
        self,
        region: Optional[Union[str, Sequence[str]]] = None,
        zone: Optional[str] = None,
        spot: Optional[bool] = None,
        instance_type: Optional[Union[str, Sequence[str]]] = None,
    ) -> None:
        self.region = region
        self.zone = zone
        self.spot = spot
        self.instance_type = instance_type
