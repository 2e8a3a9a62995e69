BEGIN TRANSACTION;
CREATE TABLE deliveries (
	id VARCHAR(64) NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	url VARCHAR(2000) NOT NULL, 
	body TEXT NOT NULL, 
	attempts INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	next_at FLOAT, 
	delivered_at FLOAT, 
	error VARCHAR(500), 
	PRIMARY KEY (id)
);
INSERT INTO "deliveries" VALUES('evt_5d29c1ddb3267fd1b52c8d8d1ed7728b','bob','https://example.com/hook','{"id": "evt_5d29c1ddb3267fd1b52c8d8d1ed7728b", "object": "event", "type": "video.completed", "created_at": 1796057285, "data": {"id": "video_253c96836f1ecdb0741b82cc87189caf", "status": "completed"}}',0,1.79605728549349427224e+09,1.79605728549349427224e+09,NULL,NULL);
INSERT INTO "deliveries" VALUES('evt_e78802dbbfd3795e2bde69b62cfab81d','bob','https://example.com/hook','{"id": "evt_e78802dbbfd3795e2bde69b62cfab81d", "object": "event", "type": "video.failed", "created_at": 1796057285, "data": {"id": "video_29d4bb9849e6fdda4c933bea70d3d831", "status": "failed"}}',0,1.79605728562500119209e+09,1.79605728562500119209e+09,NULL,NULL);
INSERT INTO "deliveries" VALUES('evt_1be741f0c2b74889da9302fec463d0f9','bob','https://example.com/hook','{"id": "evt_1be741f0c2b74889da9302fec463d0f9", "object": "event", "type": "video.cancelled", "created_at": 1796057285, "data": {"id": "video_8dad0445b2600b379f9e0f4cb53c9ba1", "status": "cancelled"}}',0,1.7960572856650559902e+09,1.7960572856650559902e+09,NULL,NULL);
CREATE TABLE flows (
	tenant VARCHAR(64) NOT NULL, 
	weight FLOAT NOT NULL, 
	served FLOAT NOT NULL, 
	PRIMARY KEY (tenant, weight)
);
INSERT INTO "flows" VALUES('bob',1.0,6.0);
CREATE TABLE jobs (
	number INTEGER NOT NULL, 
	id VARCHAR(64) NOT NULL, 
	tenant VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	foundation VARCHAR(64), 
	model VARCHAR(256) NOT NULL, 
	request JSON NOT NULL, 
	weight FLOAT NOT NULL, 
	progress INTEGER NOT NULL, 
	attempts INTEGER NOT NULL, 
	owner VARCHAR(64), 
	lease_until FLOAT, 
	created_at FLOAT NOT NULL, 
	started_at FLOAT, 
	finished_at FLOAT, 
	expires_at FLOAT, 
	timings JSON NOT NULL, 
	neighbours INTEGER, 
	error_code VARCHAR(64), 
	error_message VARCHAR(2000), 
	result_key VARCHAR(256), 
	result_sha256 VARCHAR(64), 
	result_size INTEGER, 
	idempotency_key VARCHAR(255), 
	body_sha256 VARCHAR(64), 
	webhook_url VARCHAR(2000), 
	PRIMARY KEY (number), 
	UNIQUE (tenant, idempotency_key), 
	UNIQUE (id)
);
INSERT INTO "jobs" VALUES(1,'video_4a982212957428fa76c150f9332b1abb','alice','completed',NULL,'tiny:orbit@1','{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,100,0,NULL,NULL,1.7960572852765305042e+09,1.79605728538411474229e+09,1.7960572854120004177e+09,4000000000.0,'{"queue": 0.5, "denoise": 2.0}',1,NULL,NULL,'video_4a982212957428fa76c150f9332b1abb.mp4','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',3,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(2,'video_253c96836f1ecdb0741b82cc87189caf','bob','completed','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','tiny:orbit@1','{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,100,0,NULL,NULL,1.79605728542804121976e+09,1.79605728545999383926e+09,1.79605728549202179906e+09,4000000000.0,'{"queue": 0.5, "denoise": 2.0}',1,NULL,NULL,'video_253c96836f1ecdb0741b82cc87189caf.mp4','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc',3,'key-completed','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(3,'video_2c128565d4c3d993c55bc71e9209f2eb','alice','failed',NULL,'tiny:orbit@1','{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,50,0,NULL,NULL,1.79605728550416493417e+09,1.79605728553709506991e+09,1.79605728555621767042e+09,NULL,'{"queue": 0.5}',NULL,'out_of_memory','it does not fit',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(4,'video_29d4bb9849e6fdda4c933bea70d3d831','bob','failed','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','tiny:orbit@1','{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,50,0,NULL,NULL,1.79605728557616424563e+09,1.79605728561216783519e+09,1.79605728562400102617e+09,NULL,'{"queue": 0.5}',NULL,'out_of_memory','it does not fit',NULL,NULL,NULL,'key-failed','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(5,'video_0e3e4b07a988083b53ed32ce2483dd62','alice','cancelled',NULL,'tiny:orbit@1','{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79605728563608980181e+09,NULL,1.79605728564398813246e+09,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(6,'video_8dad0445b2600b379f9e0f4cb53c9ba1','bob','cancelled','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','tiny:orbit@1','{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,0,0,NULL,NULL,1.796057285656131506e+09,NULL,1.79605728566390252117e+09,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,'key-cancelled','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(7,'video_f4807ccd6cfccac0f719764596c3a885','alice','in_progress',NULL,'tiny:orbit@1','{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,50,0,'host-1',1.79606088568521809578e+09,1.79605728567282271388e+09,1.79605728570016431812e+09,NULL,NULL,'{"queue": 0.5}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(8,'video_cf53d3de3bc1ccbb49bfb7e09f37cd04','bob','in_progress','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','tiny:orbit@1','{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,50,0,'host-1',1.79606088572537732125e+09,1.79605728571591043477e+09,1.79605728574407458308e+09,NULL,NULL,'{"queue": 0.5}',NULL,NULL,NULL,NULL,NULL,NULL,'key-in_progress','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
INSERT INTO "jobs" VALUES(9,'video_9d02667cc57beb35f422b26a6fc0fe42','alice','queued',NULL,'tiny:orbit@1','{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}',1.0,0,0,NULL,NULL,1.79605728577604484555e+09,NULL,NULL,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES(10,'video_8658a34bb53a0a1767a6d0aafb2d6a88','bob','queued','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','tiny:orbit@1','{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}',1.0,0,0,NULL,NULL,1.79605728578813695914e+09,NULL,NULL,NULL,'{}',NULL,NULL,NULL,NULL,NULL,NULL,'key-queued','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','https://example.com/hook');
CREATE TABLE pins (
	foundation VARCHAR(64) NOT NULL, 
	path VARCHAR(16) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	concept VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	pinned BOOLEAN NOT NULL, 
	revision INTEGER NOT NULL, 
	PRIMARY KEY (foundation, path, sha256)
);
INSERT INTO "pins" VALUES('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','temporal','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','orbit',1,1,1);
CREATE TABLE rates (
	tenant VARCHAR(64) NOT NULL, 
	arrival FLOAT NOT NULL, 
	PRIMARY KEY (tenant)
);
INSERT INTO "rates" VALUES('alice',1700000000.5);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(5);
CREATE TABLE servers (
	foundation VARCHAR(64) NOT NULL, 
	seen FLOAT NOT NULL, 
	PRIMARY KEY (foundation)
);
INSERT INTO "servers" VALUES('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',1700000000.5);
CREATE INDEX ix_jobs_state ON jobs (state);
CREATE INDEX ix_jobs_expires_at ON jobs (expires_at);
CREATE INDEX ix_jobs_tenant ON jobs (tenant);
CREATE INDEX ix_jobs_owner ON jobs (owner);
CREATE INDEX ix_deliveries_next_at ON deliveries (next_at);
COMMIT;
