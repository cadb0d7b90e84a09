"""The step `promote`: gates decide whether a candidate becomes the champion; lineage tells what it was made from."""
