package enroll

import "time"

// A BulkAction is what is done to many devices at once.
type BulkAction string

// The bulk actions.
const (
	BulkHold    BulkAction = "hold"
	BulkRelease BulkAction = "release"
	BulkRevoke  BulkAction = "revoke"
	BulkRetire  BulkAction = "retire"
)

// Bounds of a bulk change.
const (
	MaxBulkDevices = 500    // that are named
	MaxBulkFound   = 10_000 // that a query finds
)

// A Bulk is an action on many devices: named, or found by a query.
type Bulk struct {
	Action  BulkAction `json:"action"`
	Reason  string     `json:"reason,omitempty"`  // of BulkRevoke: RFC 5280, 5.3.1
	Comment string     `json:"comment,omitempty"` // of BulkRevoke and BulkRetire, for people
	Devices []string   `json:"devices,omitempty"` // at most MaxBulkDevices
	Query   string     `json:"query,omitempty"`   // for ParseQuery, not empty; instead of devices; finds at most MaxBulkFound
	// Fingerprint is the plan's that was shown. RunBulk refuses another one.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// A BulkPlan says what a bulk change will do. Nothing is changed.
type BulkPlan struct {
	Action      BulkAction      `json:"action"`
	Found       int             `json:"found"`       // devices
	Effects     []BulkEffect    `json:"effects"`     // what becomes of those that change, by the status they have
	Changes     int             `json:"changes"`     // devices that change
	First       []string        `json:"first"`       // ids of those, at most 10
	Refused     []BulkRefusal   `json:"refused"`     // those that do not, by reason
	Brokers     []PlannedBroker `json:"brokers"`     // whose CRL and sessions are touched; sessions are left out
	Fingerprint string          `json:"fingerprint"` // of all this
}

// A BulkEffect is what becomes of devices that have one status now.
type BulkEffect struct {
	From  DeviceStatus `json:"from"`
	To    DeviceStatus `json:"to"`
	Count int          `json:"count"`
}

// A BulkRefusal is why some devices stay as they are.
type BulkRefusal struct {
	Reason string   `json:"reason"`
	Count  int      `json:"count"`
	First  []string `json:"first"` // ids, at most 10
}

// A BulkState says how far a bulk change is.
type BulkState string

// The states of a bulk change.
const (
	BulkRunning BulkState = "running"
	BulkDone    BulkState = "done" // every device was changed, or refused
)

// A BulkResult is a bulk change that was started, with its progress.
type BulkResult struct {
	ID       string        `json:"id"`
	Action   BulkAction    `json:"action"`
	Reason   string        `json:"reason,omitempty"`
	Comment  string        `json:"comment,omitempty"`
	Query    string        `json:"query,omitempty"` // as it was asked; empty when devices were named
	Actor    string        `json:"actor"`
	State    BulkState     `json:"state"`
	Total    int           `json:"total"`    // devices to be changed
	Done     int           `json:"done"`     // changed
	Failed   int           `json:"failed"`   // not changed, because they changed meanwhile
	Failures []BulkFailure `json:"failures"` // at most 20
	At       time.Time     `json:"at"`       // of the decision
	EndedAt  *time.Time    `json:"endedAt,omitempty"`
	Version  int64         `json:"-"`
}

// A BulkFailure is a device that could not be changed.
type BulkFailure struct {
	Device  string `json:"device"`
	Message string `json:"message"`
}
