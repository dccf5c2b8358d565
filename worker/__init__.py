"""The GPU door: claims trials, trains them and reports. The one place that imports torch; it never imports `app`."""
