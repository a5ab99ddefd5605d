"""What a run folder holds: the only place that knows its file names. One module an artefact."""
