-- Volumes are in a database of their own now: `Store.open` moves what is here (volumes_apart.py). An older Intermodal would
-- not find them, so this one is not for it. Without their indexes the tables are read faster on the way.

DROP INDEX volume_files_by_content;
DROP INDEX volume_changes_by_content;
